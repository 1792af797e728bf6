// Mean and variance of each channel from those of runs of rows, in their order (Chan, Golub and LeVeque, "Updating formulae and a
// pairwise algorithm for computing sample variances", 1979), and the running ones, which follow by `momentum`: as in PyTorch the
// running variance is the unbiased one.
struct Params { rows: u32, channels: u32, parts: u32, momentum: f32 }

@group(0) @binding(0) var<storage, read> moments: array<vec2<f32>>; // [parts, channels]
@group(0) @binding(1) var<storage, read_write> batch_mean: array<f32>;
@group(0) @binding(2) var<storage, read_write> batch_variance: array<f32>;
@group(0) @binding(3) var<storage, read_write> running_mean: array<f32>;
@group(0) @binding(4) var<storage, read_write> running_variance: array<f32>;
@group(0) @binding(5) var<uniform> params: Params;

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let channel = w.x * 64u + t;
  if (channel >= params.channels) {
    return;
  }
  let each = (params.rows + params.parts - 1u) / params.parts;
  var count = 0.0;
  var mean = 0.0;
  var squares = 0.0;
  for (var part = 0u; part < params.parts; part++) {
    let begin = part * each;
    if (begin >= params.rows) {
      break;
    }
    let own = f32(min(each, params.rows - begin));
    let moment = moments[part * params.channels + channel];
    let difference = moment.x - mean;
    let total = count + own;
    mean += difference * (own / total);
    squares += moment.y + difference * difference * (count * own / total);
    count = total;
  }
  batch_mean[channel] = mean;
  batch_variance[channel] = squares / count;
  running_mean[channel] += params.momentum * (mean - running_mean[channel]);
  running_variance[channel] += params.momentum * (squares / (count - 1.0) - running_variance[channel]);
}
