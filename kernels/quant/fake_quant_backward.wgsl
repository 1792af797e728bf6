// The gradients of fake_quant.wgsl. With v = round(x / s) + z, inside where least ≤ v ≤ most:
//   d x = d y inside, 0 outside (the straight-through estimator)
//   d s = d y · (y − x) / s inside, d y · (bound − z) outside
//   d z = 0 inside, −d y · s outside
// With a scale of 0, which leaves x as it is, d x = d y, and nothing is learnt.
// d s and d z are left for each element, times the factor of LSQ; a sum over each group follows.
override LEARN: u32;

struct Params {
  size: u32,
  columns: u32,
  group_size: u32,
  row_stride: u32,
  least: f32,
  most: f32,
  factor: f32,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> scales: array<f32>;
@group(0) @binding(2) var<storage, read> zeros: array<f32>;
@group(0) @binding(3) var<storage, read> d_y: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(5) var<storage, read_write> d_scales: array<f32>;
@group(0) @binding(6) var<storage, read_write> d_zeros: array<f32>;
@group(0) @binding(7) var<uniform> params: Params;

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
  let ratio = x[i] / scale;
  let level = round(ratio) + zero;
  let isOn = scale > 0.0;
  let inside = !isOn || (level >= params.least && level <= params.most);
  let g = d_y[i];
  d_x[i] = select(0.0, g, inside);
  if (LEARN == 1u) {
    let bound = clamp(level, params.least, params.most) - zero;
    let slope = select(bound, bound - ratio, inside);
    d_scales[i] = select(0.0, params.factor * g * slope, isOn);
    d_zeros[i] = select(-params.factor * g * scale, 0.0, inside);
  }
}
