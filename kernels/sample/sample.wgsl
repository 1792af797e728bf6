// Chooses a token from each row of logits [rows, classes]. Temperature 0 takes the largest logit, the first of equals. Otherwise:
// keep the top k logits, of these the fewest whose probabilities sum to p (Holtzman et al., arXiv 1904.09751), and draw from the
// rest by the Gumbel trick: the largest of x / T − log(−log u). The thresholds are found bit by bit, without sorting: floats as
// whole numbers in the same order.
struct Params { rows: u32, classes: u32, top_k: u32, top_p: f32, temperature: f32, has_streams: u32 }

@group(0) @binding(0) var<storage, read> logits: array<f32>;
@group(0) @binding(1) var<storage, read> state: array<u32>; // seed, step, each row's stream
@group(0) @binding(2) var<storage, read_write> out: array<i32>;
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> best_value: array<f32, LANES>;
var<workgroup> best_index: array<u32, LANES>;

// The order of floats as the order of whole numbers.
fn key_of(x: f32) -> u32 {
  let bits = bitcast<u32>(x);
  return select(bits | 0x80000000u, ~bits, (bits >> 31u) == 1u);
}

// How many logits have at least this key.
fn count_from(base: u32, key: u32, lane: u32) -> f32 {
  var count = 0.0;
  for (var i = lane; i < params.classes; i += LANES) {
    count += select(0.0, 1.0, key_of(logits[base + i]) >= key);
  }
  return row_sum(count, lane, 0u);
}

// The unnormalized probability of the logits that have at least this key.
fn mass_from(base: u32, key: u32, largest: f32, lane: u32) -> f32 {
  var mass = 0.0;
  for (var i = lane; i < params.classes; i += LANES) {
    let x = logits[base + i];
    mass += select(0.0, exp((x - largest) / params.temperature), key_of(x) >= key);
  }
  return row_sum(mass, lane, 0u);
}

@compute @workgroup_size(LANES)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) lane: u32) {
  let row = w.x;
  let base = row * params.classes;
  var threshold = 0u;
  var largest = -3.4e38;
  if (params.temperature > 0.0) {
    for (var i = lane; i < params.classes; i += LANES) {
      largest = max(largest, logits[base + i]);
    }
    largest = row_max(largest, lane, 0u);
    if (params.top_k > 0u && params.top_k < params.classes) {
      // The largest key that k logits reach is that of the k-th.
      for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if (count_from(base, threshold | bit, lane) >= f32(params.top_k)) {
          threshold |= bit;
        }
      }
    }
    if (params.top_p < 1.0) {
      let wanted = params.top_p * mass_from(base, threshold, largest, lane);
      var key = 0u;
      for (var bit = 0x80000000u; bit > 0u; bit >>= 1u) {
        if (mass_from(base, max(key | bit, threshold), largest, lane) >= wanted) {
          key |= bit;
        }
      }
      threshold = max(threshold, key);
    }
  }
  var stream = row;
  if (params.has_streams == 1u) {
    stream = state[2u + row];
  }
  var value = -3.4e38;
  var index = 0u;
  for (var i = lane; i < params.classes; i += LANES) {
    var x = logits[base + i];
    if (key_of(x) < threshold) {
      continue;
    }
    if (params.temperature > 0.0) {
      let bits = threefry(vec2<u32>(state[0], stream), vec2<u32>(state[1], i)).x;
      let u = (f32(bits >> 9u) + 0.5) * 0x1p-23; // strictly between 0 and 1
      x = x / params.temperature - log(-log(u));
    }
    if (x > value) {
      value = x;
      index = i;
    }
  }
  best_value[lane] = value;
  best_index[lane] = index;
  for (var half = LANES / 2u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      let other = best_value[lane + half];
      let other_index = best_index[lane + half];
      if (other > best_value[lane] || (other == best_value[lane] && other_index < best_index[lane])) {
        best_value[lane] = other;
        best_index[lane] = other_index;
      }
    }
  }
  if (lane == 0u) {
    out[row] = i32(best_index[0]);
  }
}
