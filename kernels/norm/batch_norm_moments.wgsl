// Mean and sum of squared deviations of each channel over a run of rows: x [rows, channels], one invocation for each channel of
// each run. Two passes, so that a large mean costs no digits.
struct Params { rows: u32, channels: u32, parts: u32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> moments: array<vec2<f32>>; // [parts, channels]
@group(0) @binding(2) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.parts * params.channels) {
    return;
  }
  let part = i / params.channels;
  let channel = i % params.channels;
  let each = (params.rows + params.parts - 1u) / params.parts;
  let begin = part * each;
  let end = min(begin + each, params.rows);
  var sum = 0.0;
  for (var row = begin; row < end; row++) {
    sum += x[row * params.channels + channel];
  }
  let mean = sum / max(1.0, f32(end) - f32(begin));
  var squares = 0.0;
  for (var row = begin; row < end; row++) {
    let d = x[row * params.channels + channel] - mean;
    squares += d * d;
  }
  moments[i] = vec2<f32>(mean, squares);
}
