// y = (clamp(round(x / s) + z, least, most) − z) · s: what x becomes when it is quantized and decoded again. Ties go to the even
// number, as WGSL's round has it. A scale of 0 leaves x as it is,
// and NaN and infinity stay what they are, rather than saturate unseen. One invocation for each element.
struct Params {
  size: u32,
  columns: u32,
  group_size: u32,
  row_stride: u32, // scales from one row to the next; 0 with one scale for all rows
  least: f32,
  most: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> zeros: array<f32>;
@group(0) @binding(3) var<storage, read_write> y: array<f32>;
@group(0) @binding(4) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let group = (i / params.columns) * params.row_stride + (i % params.columns) / params.group_size;
  let scale = scales[group];
  let zero = clamp(round(zeros[group]), params.least, params.most);
  let code = clamp(round(x[i] / scale) + zero, params.least, params.most);
  let isFinite = (bitcast<u32>(x[i]) & 0x7f800000u) != 0x7f800000u;
  y[i] = select(x[i], (code - zero) * scale, isFinite && scale > 0.0);
}
