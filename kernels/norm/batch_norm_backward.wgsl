// The gradient of x in batch_norm. With given statistics it is r · gain · d out, r = 1 / √(variance + ε); with those of the batch,
// which move with x,
//   d x = r · gain · (d out − (Σ d out + x̂ · Σ d out · x̂) / rows)
override BATCH: u32;

struct Params { size: u32, channels: u32, rows: f32, epsilon: f32 }

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read> d_out: array<f32>;
@group(0) @binding(2) var<storage, read> mean: array<f32>;
@group(0) @binding(3) var<storage, read> variance: array<f32>;
@group(0) @binding(4) var<storage, read> gain: array<f32>;
@group(0) @binding(5) var<storage, read> d_bias: array<f32>; // the sums
@group(0) @binding(6) var<storage, read> d_gain: array<f32>;
@group(0) @binding(7) var<storage, read_write> d_x: array<f32>;
@group(0) @binding(8) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t;
  if (i >= params.size) {
    return;
  }
  let channel = i % params.channels;
  let r = 1.0 / sqrt(variance[channel] + params.epsilon);
  var g = d_out[i];
  if (BATCH == 1u) {
    let own = (x[i] - mean[channel]) * r;
    g -= (d_bias[channel] + own * d_gain[channel]) / params.rows;
  }
  d_x[i] = r * gain[channel] * g;
}
