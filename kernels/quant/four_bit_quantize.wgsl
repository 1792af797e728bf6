// Quantizes x to 4-bit floats by blocks, exactly as bitsandbytes does on a processor: scale each value by 1 / absmax, rounded to
// float32, and count the thresholds below it. LANES invocations share a block, ROWS blocks share a workgroup; an invocation packs
// eight codes into a word, each byte's first element in its high half.
override LANES: u32;
override ROWS: u32;

struct Params {
  size: u32,
  block_size: u32,
  codes: vec2<u32>, // the 16 codes in the order of their values, four bits each
  thresholds: array<vec4<f32>, 4>,
}

@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> absmax: array<u32>; // the bits of floats
@group(0) @binding(3) var<uniform> params: Params;

var<workgroup> largest: array<atomic<u32>, ROWS>;

// a / b rounded to nearest, which a GPU's own division need not be. The quotient's 24 bits are corrected by its remainder, which
// is small enough that arithmetic modulo 2³² shows it.
fn divide(a: f32, b: f32) -> f32 {
  let a_bits = bitcast<u32>(abs(a));
  let b_bits = bitcast<u32>(b);
  let a_exponent = i32(a_bits >> 23u);
  let b_exponent = i32(b_bits >> 23u);
  let a_mantissa = (a_bits & 0x7fffffu) | 0x800000u;
  let b_mantissa = (b_bits & 0x7fffffu) | 0x800000u;
  let below = u32(a_mantissa < b_mantissa);
  let exponent = a_exponent - b_exponent + 127 - i32(below);
  if (a_exponent == 0 || b_exponent == 0 || exponent <= 0 || exponent >= 255) {
    return a / b; // a subnormal takes part: far from every threshold
  }
  // The quotient of the mantissas, in [2²³, 2²⁴): a good guess, then whole steps until the remainder is at most half of b.
  let shift = 23u + below;
  var quotient = u32(f32(a_mantissa) / f32(b_mantissa) * f32(1u << shift));
  for (var turn = 0u; turn < 6u; turn++) {
    let remainder = bitcast<i32>((a_mantissa << shift) - quotient * b_mantissa);
    let half = i32(b_mantissa / 2u);
    if (remainder > half) {
      quotient += 1u;
    } else if (remainder < -half) {
      quotient -= 1u;
    }
  }
  // A quotient of 2²⁴ carries into the exponent by itself.
  let bits = (u32(exponent) << 23u) + (quotient - 0x800000u);
  return bitcast<f32>(bits | (bitcast<u32>(a) & 0x80000000u));
}

fn code_of(scaled: f32) -> u32 {
  var rank = 0u;
  for (var i = 0u; i < 15u; i++) {
    rank += u32(scaled > params.thresholds[i / 4u][i % 4u]);
  }
  return (params.codes[rank / 8u] >> (4u * (rank % 8u))) & 15u;
}

@compute @workgroup_size(LANES, ROWS)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_id) t: vec3<u32>) {
  let block = (w.y * n.x + w.x) * ROWS + t.y;
  let first = min(block * params.block_size, params.size);
  let last = min(first + params.block_size, params.size);
  // The bits of magnitudes are ordered as the magnitudes are, and put infinity and NaN last.
  for (var i = first + t.x; i < last; i += LANES) {
    atomicMax(&largest[t.y], bitcast<u32>(x[i]) & 0x7fffffffu);
  }
  workgroupBarrier();
  let magnitude = atomicLoad(&largest[t.y]);
  if (first >= last) {
    return;
  }
  if (t.x == 0u) {
    absmax[block] = magnitude;
  }
  let whole = last - first == params.block_size;
  // A block whose largest value is zero or subnormal is a block of zeros: a GPU may read a subnormal as zero, and 0 / 0 is NaN.
  let is_zero = magnitude < 0x00800000u;
  let scale = select(bitcast<f32>(magnitude), 1.0, is_zero);
  let inverse = select(divide(1.0, scale), 0.0, is_zero);
  for (var word = first + 8u * t.x; word < last; word += 8u * LANES) {
    var bits = 0u;
    for (var e = 0u; e < 8u; e++) {
      let i = word + e;
      var value = 0.0;
      if (i < last) {
        value = x[i];
      }
      var scaled = value * inverse;
      if (!whole && !is_zero) {
        scaled = divide(value, scale);
      }
      // A block that ends inside a byte is the tensor's last: what follows is padding, the code of zero in the low half.
      if (i < last || (e % 2u == 1u && i == last)) {
        bits |= code_of(scaled) << (8u * (e / 2u) + 4u * (1u - e % 2u));
      }
    }
    packed[word / 8u] = bits;
  }
}
