/**
 * Matrices of 16-bit floats as products read them: two in a word, widened on their way, exactly.
 *
 * @module
 */

/** Four neighbouring halves of `array<vec2<u32>>` as floats. Devices need no support for f16. */
export const HALVES_WGSL = `
fn halves(words: vec2<u32>) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(words.x), unpack2x16float(words.y));
}
`;
