// Sums over runs of rows that the gradients of batch_norm are made of: of d out, the gradient of bias, and of d out · x̂, that of
// gain, with x̂ = (x − mean) / √(variance + ε). One invocation for each channel of each run.
struct Params { rows: u32, channels: u32, parts: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> d_out: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> variance: array<f32>;
@group(0) @binding(4) var<storage, read_write> d_bias: array<f32>; // [parts, channels]
@group(0) @binding(5) var<storage, read_write> d_gain: array<f32>; // [parts, channels]
@group(0) @binding(6) var<uniform> params: Params;

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
  var plain = 0.0;
  var weighted = 0.0;
  for (var row = begin; row < end; row++) {
    let at = row * params.channels + channel;
    plain += d_out[at];
    weighted += d_out[at] * (x[at] - mean[channel]);
  }
  d_bias[i] = plain;
  d_gain[i] = weighted / sqrt(variance[channel] + params.epsilon);
}
