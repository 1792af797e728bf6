// Scale and zero point of each range, widened to hold 0. A range that holds nothing else, or nothing at all, gets scale 0: numbers
// stay as they are.
struct Params {
  size: u32,
  least: f32,
  most: f32,
  steps: f32, // symmetric: absmax is so many scales. 0: asymmetric
  middle: f32, // symmetric: the zero point
}

@group(0) @binding(0) var<storage, read> ranges: array<vec2<f32>>;
@group(0) @binding(1) var<storage, read_write> scales: array<f32>;
@group(0) @binding(2) var<storage, read_write> zeros: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let isEmpty = ranges[i].x > ranges[i].y;
  let low = select(min(ranges[i].x, 0.0), 0.0, isEmpty);
  let high = select(max(ranges[i].y, 0.0), 0.0, isEmpty);
  let isSymmetric = params.steps > 0.0;
  var scale = (high - low) / (params.most - params.least);
  if (isSymmetric) {
    scale = max(-low, high) / params.steps;
  }
  scale = select(scale, 0.0, scale < 1e-30);
  let place = params.least - round(low / select(scale, 1.0, scale == 0.0));
  scales[i] = scale;
  zeros[i] = select(clamp(place, params.least, params.most), params.middle, isSymmetric);
}
