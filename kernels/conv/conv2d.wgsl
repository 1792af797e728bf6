// The pixels under a kernel at each of its places, side by side: x [batch, height, width, channels] to
// [batch, rows, columns, kernel_height, kernel_width, channels], zeros where the kernel is outside the picture.
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
  size: u32, // of out
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let channel = i % params.channels;
  var rest = i / params.channels;
  let kx = rest % params.kernel_width;
  rest /= params.kernel_width;
  let ky = rest % params.kernel_height;
  rest /= params.kernel_height;
  let column = rest % params.columns;
  rest /= params.columns;
  let row = rest % params.rows;
  let picture = rest / params.rows;
  // Below 0 wraps around to far beyond the edge.
  let px = column * params.stride + kx - params.padding;
  let py = row * params.stride + ky - params.padding;
  var value = 0.0;
  if (px < params.width && py < params.height) {
    value = x[((picture * params.height + py) * params.width + px) * params.channels + channel];
  }
  out[i] = value;
}
