// The gradient of conv2d's copies of pixels: each pixel collects the gradients of its copies, in the order of the kernel's rows and
// columns.
struct Params {
  height: u32,
  width: u32,
  channels: u32,
  rows: u32, // places of the kernel
  columns: u32,
  kernel_height: u32,
  kernel_width: u32,
  stride: u32,
  padding: u32,
  size: u32, // of d_x
}

@group(0) @binding(0) var<storage, read> d_out: array<f32>;
@group(0) @binding(1) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let channel = i % params.channels;
  let place = i / params.channels;
  let px = place % params.width + params.padding;
  let py = place / params.width % params.height + params.padding;
  let picture = place / (params.width * params.height);
  var sum = 0.0;
  for (var ky = 0u; ky < params.kernel_height; ky++) {
    // The kernel's row ky lies on this pixel when the kernel is at `row`, if there is such a place.
    let row = (py - ky) / params.stride;
    if (ky > py || row >= params.rows || row * params.stride + ky != py) {
      continue;
    }
    for (var kx = 0u; kx < params.kernel_width; kx++) {
      let column = (px - kx) / params.stride;
      if (kx > px || column >= params.columns || column * params.stride + kx != px) {
        continue;
      }
      let patch_at = (picture * params.rows + row) * params.columns + column;
      let within = (ky * params.kernel_width + kx) * params.channels + channel;
      sum += d_out[patch_at * params.kernel_height * params.kernel_width * params.channels + within];
    }
  }
  d_x[i] = sum;
}
