// Half-quadratic quantization of one group of weights for each invocation: for some shares of the range, the zero that fits best;
// kept are the scale and the zero with the least mean error.
const P: f32 = 0.7; // the norm of the error: small errors matter more than large ones
const STEPS = 20u;
const SHARES = 8u; // of the range: 1, 0.97, 0.94, …
const SHARE_STEP = 0.03;

struct Params {
  groups: u32, // in all
  per_row: u32,
  columns: u32,
  group_size: u32,
  most: f32, // levels are 0 to most
}

@group(0) @binding(0) var<storage, read> w: array<f32>;
@group(0) @binding(1) var<storage, read_write> codes: array<u32>; // as w, one word for each
@group(0) @binding(2) var<storage, read_write> scales: array<vec2<f32>>; // [rows, groups]
@group(0) @binding(3) var<uniform> params: Params;

fn level(x: f32, scale: f32, zero: f32) -> f32 {
  return clamp(round(x / scale + zero), 0.0, params.most);
}

// sign(e) · max(|e| − |e|^(P−1) / β, 0): what the error would be if it were sparse.
fn shrink(e: f32, beta: f32) -> f32 {
  let size = abs(e);
  if (size < 1e-12) {
    return 0.0;
  }
  return sign(e) * max(size - pow(size, P - 1.0) / beta, 0.0);
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (group.y * n.x + group.x) * 64u + t;
  if (i >= params.groups) {
    return;
  }
  let column = i % params.per_row * params.group_size;
  let first = i / params.per_row * params.columns + column;
  let count = min(params.group_size, params.columns - column);
  var low = w[first];
  var high = low;
  for (var j = 1u; j < count; j++) {
    let x = w[first + j];
    low = min(low, x);
    high = max(high, x);
  }
  let range = high - low;
  let flat = range < 1e-30;
  // Weights that are all the same: one level, exact.
  var best = vec2<f32>(select(low, 1.0, low == 0.0), 0.0);
  var least = select(3.4e38, 0.0, flat);
  for (var share = 0u; share < SHARES && !flat; share++) {
    let part = 1.0 - SHARE_STEP * f32(share);
    let scale = range * part / params.most;
    var zero = -(low + 0.5 * (1.0 - part) * range) / scale;
    // At the whole range the first zero is whole, so that where it is the best one, 0 stays exact.
    zero = select(zero, round(zero), share == 0u);
    var before = 3.4e38;
    var beta = 10.0;
    for (var step = 0u; step < STEPS; step++) {
      var sum = 0.0;
      var error = 0.0;
      for (var j = 0u; j < count; j++) {
        let x = w[first + j];
        let q = level(x, scale, zero);
        let e = x - (q - zero) * scale;
        error += abs(e);
        sum += q - (x - shrink(e, beta)) / scale;
      }
      if (error < least) {
        least = error;
        best = vec2<f32>(scale, zero);
      }
      if (error >= before) {
        break;
      }
      before = error;
      zero = sum / f32(count);
      beta *= 1.01;
    }
  }
  for (var j = 0u; j < count; j++) {
    codes[first + j] = u32(level(w[first + j], best.x, best.y));
  }
  scales[i] = best;
}
