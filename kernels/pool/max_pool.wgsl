// The largest number of each channel in a square of pixels, and which element of x it is; the first of equal ones.
struct Params {
  height: u32,
  width: u32,
  channels: u32,
  rows: u32, // squares in a column of the picture
  columns: u32, // squares in a row
  square: u32, // pixels on a side
  out_size: u32,
  x_size: u32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<storage, read_write> index: array<u32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.out_size) {
    return;
  }
  let channel = i % params.channels;
  let place = i / params.channels;
  let column = place % params.columns;
  let row = place / params.columns % params.rows;
  let picture = place / (params.columns * params.rows);
  let first = (picture * params.height + row * params.square) * params.width + column * params.square;
  var at = first * params.channels + channel;
  var best = x[at];
  for (var dy = 0u; dy < params.square; dy++) {
    for (var dx = 0u; dx < params.square; dx++) {
      let own = (first + dy * params.width + dx) * params.channels + channel;
      if (x[own] > best) {
        best = x[own];
        at = own;
      }
    }
  }
  out[i] = best;
  index[i] = at;
}
