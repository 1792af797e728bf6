// Scale and zero of each row's weights in some columns of a transposed matrix [columns, rows], widened to hold 0.
override SYMMETRIC: u32;

struct Params {
  rows: u32,
  count: u32, // columns of the group
  at: u32, // where its scales go: group · rows
  least: f32,
  most: f32,
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> scales: array<vec2<f32>>; // [groups, rows]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let row = group.x * 64u + t;
  if (row >= params.rows) {
    return;
  }
  var low = 0.0;
  var high = 0.0;
  for (var j = 0u; j < params.count; j++) {
    let x = w[j * params.rows + row];
    low = min(low, x);
    high = max(high, x);
  }
  var scale = (high - low) / (params.most - params.least);
  var zero = 0.0;
  if (SYMMETRIC == 1u) {
    scale = max(-low, high) / params.most;
  }
  // A group of zeros has no step; any will do.
  scale = select(scale, 1.0, scale < 1e-30);
  if (SYMMETRIC == 0u) {
    zero = clamp(params.least - round(low / scale), params.least, params.most);
  }
  scales[params.at + row] = vec2<f32>(scale, zero);
}
