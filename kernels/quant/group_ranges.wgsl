// The least and the largest number of each group along the rows of x [rows, columns]; the last group of a row may be shorter.
// LANES 1: one invocation for each group. LANES 64: a workgroup for each, whose invocations take every 64th number.
override LANES: u32;

struct Params {
  groups: u32, // of all rows
  per_row: u32,
  columns: u32,
  group_size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> ranges: array<vec2<f32>>;
@group(0) @binding(2) var<uniform> params: Params;

var<workgroup> parts: array<vec2<f32>, 64>;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let own = w.y * n.x + w.x;
  let i = select(own, own * 64u + t, LANES == 1u);
  let lane = select(t, 0u, LANES == 1u);
  let column = i % params.per_row * params.group_size;
  let first = i / params.per_row * params.columns + column;
  let count = select(0u, min(params.group_size, params.columns - column), i < params.groups);
  var low = 3.4028234e38;
  var high = -3.4028234e38;
  for (var j = lane; j < count; j += LANES) {
    let number = x[first + j];
    low = min(low, number);
    high = max(high, number);
  }
  if (LANES > 1u) {
    parts[t] = vec2<f32>(low, high);
    for (var half = 32u; half > 0u; half >>= 1u) {
      workgroupBarrier();
      if (t < half) {
        let other = parts[t + half];
        parts[t] = vec2<f32>(min(parts[t].x, other.x), max(parts[t].y, other.y));
      }
    }
    workgroupBarrier();
    low = parts[0].x;
    high = parts[0].y;
  }
  if (lane == 0u && i < params.groups) {
    ranges[i] = vec2<f32>(low, high);
  }
}
