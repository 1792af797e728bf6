// The gradient of max_pool: it goes to the element that was the largest of its square. Each element looks at its own square.
struct Params {
  height: u32,
  width: u32,
  channels: u32,
  rows: u32,
  columns: u32,
  square: u32,
  out_size: u32,
  x_size: u32,
}

@group(0) @binding(0) var<storage, read> d_out: array<f32>;
@group(0) @binding(1) var<storage, read> index: array<u32>;
@group(0) @binding(2) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.x_size) {
    return;
  }
  let channel = i % params.channels;
  let place = i / params.channels;
  let column = place % params.width / params.square;
  let row = place / params.width % params.height / params.square;
  let picture = place / (params.width * params.height);
  var g = 0.0;
  // Elements at the edges may be in no square.
  if (column < params.columns && row < params.rows) {
    let own = ((picture * params.rows + row) * params.columns + column) * params.channels + channel;
    g = select(0.0, d_out[own], index[own] == i);
  }
  d_x[i] = g;
}
