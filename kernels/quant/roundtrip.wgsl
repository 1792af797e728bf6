// Groups of weights rounded to whole numbers and decoded again, one invocation for each group: scale from the range, widened to
// hold 0.
struct Params {
  groups: u32,
  per_row: u32,
  columns: u32,
  group_size: u32,
  most: f32, // levels are 0 to most
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (group.y * n.x + group.x) * 64u + t;
  if (i >= params.groups) {
    return;
  }
  let column = i % params.per_row * params.group_size;
  let first = i / params.per_row * params.columns + column;
  let count = min(params.group_size, params.columns - column);
  var low = 0.0;
  var high = 0.0;
  for (var j = 0u; j < count; j++) {
    let x = w[first + j];
    low = min(low, x);
    high = max(high, x);
  }
  let range = high - low;
  let scale = select(range / params.most, 1.0, range < 1e-30);
  let zero = round(-low / scale);
  for (var j = 0u; j < count; j++) {
    let q = clamp(round(w[first + j] / scale) + zero, 0.0, params.most);
    out[first + j] = (q - zero) * scale;
  }
}
