// Reads GGUF's blocks as bytes; `weights_at(at, j)`, of a type's own, gives the weights j to j + 3 of the block that begins at byte
// `at`. Blocks have an even number of bytes. `packed_word(i)` is declared by the kernel.

// Four bytes from an even place on, the first in the low bits.
fn word_at(at: u32) -> u32 {
  let word = packed_word(at / 4u);
  if (at % 4u == 0u) {
    return word;
  }
  return (word >> 16u) | (packed_word(at / 4u + 1u) << 16u);
}

fn byte_at(at: u32) -> u32 {
  return (packed_word(at / 4u) >> (8u * (at % 4u))) & 255u;
}

fn signed_byte_at(at: u32) -> f32 {
  return f32(bitcast<i32>(byte_at(at) << 24u) >> 24u);
}

// The four bytes of a word, shifted right, and what `mask` leaves of them.
fn bytes_of(word: u32, shift: u32, mask: u32) -> vec4<u32> {
  return (vec4<u32>(word, word >> 8u, word >> 16u, word >> 24u) & vec4<u32>(255u)) >> vec4<u32>(shift)
    & vec4<u32>(mask);
}

// A half-precision number. Its bits are taken apart because a conversion may flush small ones to 0.
fn half_at(at: u32) -> f32 {
  let bits = (packed_word(at / 4u) >> (8u * (at % 4u))) & 0xffffu;
  let normal = bitcast<f32>(((bits & 0x7fffu) << 13u) + 0x38000000u);
  let small = f32(bits & 0x3ffu) * 5.9604644775390625e-8; // 2⁻²⁴
  let size = select(normal, small, (bits & 0x7c00u) == 0u);
  return select(size, -size, (bits & 0x8000u) != 0u);
}
