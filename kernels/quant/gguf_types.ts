/**
 * The block types of GGUF whose weights nibble keeps as they are (ggml's `ggml-common.h` and `ggml-quants.c`), and WGSL that decodes
 * them: every product in it is exact in f32, so that its one sum rounds as llama.cpp's does, and values are equal to the last bit.
 *
 * @module
 */
import blockCode from "./gguf_block.wgsl" with { type: "text" };

/** A type by ggml's name. */
export type GgufBlockType =
  | "Q4_0"
  | "Q4_1"
  | "Q5_0"
  | "Q5_1"
  | "Q8_0"
  | "Q4_K"
  | "Q5_K"
  | "Q6_K";

/** A block of weights that share scales. */
export interface GgufBlock {
  /** Weights of a block; rows are whole blocks. */
  readonly weights: number;
  /** Its bytes, an even number. */
  readonly bytes: number;
  /** Where in it half-precision numbers are, scales and minima. */
  readonly halves: readonly number[];
  /** The body of WGSL's `fn weights_at(at: u32, j: u32) -> vec4<f32>`. */
  readonly wgsl: string;
}

/** Weight j of Q4 and Q5 lies in the low half of byte j, weight j + 16 in its high half. */
const nibbles = (from: number) => `bytes_of(word_at(at + ${from}u + j % 16u), 4u * (j / 16u), 15u)`;

/** The fifth bits of Q5: bit j is that of weight j. */
const fifthBits = (from: number) =>
  `(((vec4<u32>(word_at(at + ${from}u) >> j) >> vec4<u32>(0u, 1u, 2u, 3u)) & vec4<u32>(1u)) << vec4<u32>(4u))`;

/** Scale and minimum of Q4_K's and Q5_K's eight groups, of 6 bits each, in the twelve bytes from 4 on. */
const SIX_BITS = `
  let group = j / 32u;
  let own = at + 4u + group % 4u;
  let high = vec2<u32>(byte_at(own), byte_at(own + 4u));
  let third = byte_at(own + 8u);
  let late = vec2<u32>(third & 15u, third >> 4u) | ((high >> vec2<u32>(6u)) << vec2<u32>(4u));
  let six = vec2<f32>(select(high & vec2<u32>(63u), late, group >= 4u));
  let scale = half_at(at) * six.x;
  let least = half_at(at + 2u) * six.y;`;

/** The types by name. */
export const GGUF_BLOCKS: Readonly<Record<GgufBlockType, GgufBlock>> = {
  Q4_0: {
    weights: 32,
    bytes: 18,
    halves: [0],
    wgsl: `return (vec4<f32>(${nibbles(2)}) - 8.0) * half_at(at);`,
  },
  Q4_1: {
    weights: 32,
    bytes: 20,
    halves: [0, 2],
    wgsl: `return vec4<f32>(${nibbles(4)}) * half_at(at) + half_at(at + 2u);`,
  },
  Q5_0: {
    weights: 32,
    bytes: 22,
    halves: [0],
    wgsl: `return (vec4<f32>(${nibbles(6)} | ${fifthBits(2)}) - 16.0) * half_at(at);`,
  },
  Q5_1: {
    weights: 32,
    bytes: 24,
    halves: [0, 2],
    wgsl: `return vec4<f32>(${nibbles(8)} | ${fifthBits(4)}) * half_at(at) + half_at(at + 2u);`,
  },
  Q8_0: {
    weights: 32,
    bytes: 34,
    halves: [0],
    wgsl: `
  let codes = vec4<i32>(bytes_of(word_at(at + 2u + j), 0u, 255u) << vec4<u32>(24u)) >> vec4<u32>(24u);
  return vec4<f32>(codes) * half_at(at);`,
  },
  Q4_K: {
    weights: 256,
    bytes: 144,
    halves: [0, 2],
    wgsl: `${SIX_BITS}
  let codes = bytes_of(word_at(at + 16u + 32u * (j / 64u) + j % 32u), 4u * (group % 2u), 15u);
  return vec4<f32>(codes) * scale - least;`,
  },
  Q5_K: {
    weights: 256,
    bytes: 176,
    halves: [0, 2],
    wgsl: `${SIX_BITS}
  let low = bytes_of(word_at(at + 48u + 32u * (j / 64u) + j % 32u), 4u * (group % 2u), 15u);
  let fifth = bytes_of(word_at(at + 16u + j % 32u), group, 1u);
  return vec4<f32>(low | (fifth << vec4<u32>(4u))) * scale - least;`,
  },
  Q6_K: {
    weights: 256,
    bytes: 210,
    halves: [208],
    wgsl: `
  // Two parts of 128 weights; a part has four lines of 32.
  let part = j / 128u;
  let line = j / 32u % 4u;
  let i = j % 32u;
  let low = bytes_of(word_at(at + 64u * part + 32u * (line % 2u) + i), 4u * (line / 2u), 15u);
  let high = bytes_of(word_at(at + 128u + 32u * part + i), 2u * line, 3u);
  let scale = half_at(at + 208u) * signed_byte_at(at + 192u + 8u * part + 2u * line + i / 16u);
  return (vec4<f32>(low | (high << vec4<u32>(4u))) - 32.0) * scale;`,
  },
};

/** Whether a type of this name is among them. */
export function isGgufBlockType(name: string): name is GgufBlockType {
  return Object.hasOwn(GGUF_BLOCKS, name);
}

/** WGSL with `weights_at` for a type, and its sizes; wants `packed_word(i)`. */
export function ggufWgsl(type: GgufBlockType): string {
  const { weights, bytes } = GGUF_BLOCKS[type];
  return `const BLOCK_WEIGHTS = ${weights}u;
const BLOCK_BYTES = ${bytes}u;
${blockCode}
fn weights_at(at: u32, j: u32) -> vec4<f32> {
  ${GGUF_BLOCKS[type].wgsl}
}
`;
}
