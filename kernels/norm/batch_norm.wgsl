// Batch normalization (Ioffe and Szegedy, arXiv 1502.03167): out = (x − mean) / √(variance + ε) · gain + bias, with one mean,
// variance, gain and bias for each channel, the last axis of x.
struct Params { size: u32, channels: u32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> mean: array<f32>;
@group(0) @binding(2) var<storage, read> variance: array<f32>;
@group(0) @binding(3) var<storage, read> gain: array<f32>;
@group(0) @binding(4) var<storage, read> bias: array<f32>;
@group(0) @binding(5) var<storage, read_write> out: array<f32>;
@group(0) @binding(6) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let channel = i % params.channels;
  let r = 1.0 / sqrt(variance[channel] + params.epsilon);
  out[i] = (x[i] - mean[channel]) * r * gain[channel] + bias[channel];
}
