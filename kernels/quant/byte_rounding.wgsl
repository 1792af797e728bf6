// Rounding to signed bytes, for kernels whose `params` have scale, zero, least and not_a_number (the bits of a NaN: WGSL has no way
// to write it). A scale of 0 there stands for a scale of each row's own, absmax / 127.

const LARGEST = 3.4028234e38;

// The largest of `most` and four numbers without their signs; LARGEST where one is NaN or infinite.
fn most_of(most: f32, four: vec4<f32>) -> f32 {
  // The bits of NaN and infinity are above those of every number; comparisons of floats may be optimized as if there were none.
  let bits = bitcast<vec4<u32>>(abs(four));
  let top = max(max(bits.x, bits.y), max(bits.z, bits.w));
  return select(max(most, bitcast<f32>(min(top, 0x7f7fffffu))), LARGEST, top >= 0x7f800000u);
}

// The scale of a row with this largest number.
fn scale_of(most: f32) -> f32 {
  if (params.scale == 0.0 && most >= 1e-30) {
    return most / 127.0;
  }
  return params.scale;
}

fn is_broken(most: f32) -> bool {
  return most >= LARGEST;
}

// What is stored for its scale.
fn stored_scale(most: f32) -> f32 {
  return select(scale_of(most), bitcast<f32>(params.not_a_number), is_broken(most));
}

// Whether its numbers become bytes; else all of them are 0.
fn is_usable(most: f32) -> bool {
  return scale_of(most) > 0.0 && !is_broken(most);
}

// Four numbers as bytes, the first in the low bits.
fn word_of(four: vec4<f32>, scale: f32) -> u32 {
  let q = clamp(round(four / scale) + params.zero, vec4<f32>(params.least), vec4<f32>(127.0));
  let b = bitcast<vec4<u32>>(vec4<i32>(q)) & vec4<u32>(0xffu);
  return b.x | (b.y << 8u) | (b.z << 16u) | (b.w << 24u);
}
