// Between 32- and 16-bit floats. Two 16-bit floats lie in one word, so a device without shader-f16 can read them too.
override TO_F16: bool;
// Beyond the range of halves: the largest one, and not infinity.
override SATURATE: bool;

@group(0) @binding(0) var<storage, read> x: array<u32>;
@group(0) @binding(1) var<storage, read_write> out: array<u32>;
@group(0) @binding(2) var<uniform> size: vec4<u32>;

// Round to nearest, ties to even: pack2x16float may round otherwise, so that is done by hand for the 13 bits that go.
fn half_bits(f: u32) -> u32 {
  let sign = (f >> 16u) & 0x8000u;
  let magnitude = f & 0x7fffffffu;
  if (magnitude > 0x7f800000u) {
    return sign | 0x7e00u; // not a number
  }
  if (magnitude >= 0x477ff000u) {
    return sign | select(0x7c00u, 0x7bffu, SATURATE); // rounds to infinity
  }
  if (magnitude >= 0x38800000u) {
    // a normal half: move the exponent from bias 127 to 15, then round
    let m = magnitude - 0x38000000u;
    return sign | ((m + 0xfffu + ((m >> 13u) & 1u)) >> 13u);
  }
  if (magnitude < 0x33000000u) {
    return sign; // less than half of the smallest subnormal
  }
  // a subnormal half: shift the mantissa, with its leading one, into place
  let shift = 126u - (magnitude >> 23u);
  let m = (magnitude & 0x7fffffu) | 0x800000u;
  let kept = m >> shift;
  let rest = m & ((1u << shift) - 1u);
  let tie = 1u << (shift - 1u);
  let up = rest > tie || (rest == tie && (kept & 1u) == 1u);
  return sign | (kept + select(0u, 1u, up));
}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 64u + t; // a pair of elements
  if (2u * i >= size.x) {
    return;
  }
  let odd = 2u * i + 1u == size.x; // the last element has no partner
  if (TO_F16) {
    var word = half_bits(x[2u * i]);
    if (!odd) {
      word |= half_bits(x[2u * i + 1u]) << 16u;
    }
    out[i] = word;
  } else {
    let pair = unpack2x16float(x[i]);
    out[2u * i] = bitcast<u32>(pair.x);
    if (!odd) {
      out[2u * i + 1u] = bitcast<u32>(pair.y);
    }
  }
}
