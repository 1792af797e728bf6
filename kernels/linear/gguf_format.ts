/**
 * Weights in GGUF's blocks as kernels read them that take each once. A unit is eight weights with one scale; its codes are brought
 * into the bytes of two words, whatever their bits, and the scale is looked up by one lane for those beside it.
 *
 * @module
 */
import type { GgufBlockTensor } from "../quant/gguf_block.ts";
import { GGUF_BLOCKS, type GgufBlockType } from "../quant/gguf_types.ts";
import { field, type WeightFormat } from "./weight_format.ts";

/** Weights of a unit. */
const UNIT = 8;

/** How the units of a type lie in its blocks. WGSL knows `at`, the block's first byte, and `j`, the unit's number in the block. */
interface Layout {
  /** The expression of its eight codes, vec2<u32>. */
  readonly codes: string;
  /** What codes are too large by. */
  readonly offset: number;
  /** The expression of its scale; of a pair where `shifted`. */
  readonly scale: string;
  readonly shifted: boolean;
  /** Neighbouring units that share a scale. */
  readonly sharing: number;
  /** Its weights are four in a row and the four that are 16 behind them, not eight in a row. */
  readonly apart: boolean;
}

/** The four bytes of Q4 and Q5 hold weights 4j to 4j + 3 in their low halves, and 16 more than those in their high ones. */
const halves = (from: number) => `halves_of(WORD(at + ${from}u + 4u * j))`;

/** Those with fifth bits, bit i of a word being that of weight i. */
const fives = (bits: number, from: number) =>
  `${
    halves(from)
  } | spread(vec2<u32>(WORD(at + ${bits}u) >> (4u * j), WORD(at + ${bits}u) >> (16u + 4u * j)))`;

const simple = { sharing: 4, apart: true } as const;
const one = { ...simple, scale: "half_of(SHORT(at))", shifted: false } as const;
const pair = {
  ...simple,
  offset: 0,
  scale: "vec2<f32>(half_of(SHORT(at)), half_of(SHORT(at + 2u)))",
  shifted: true,
} as const;

/** Two words of K-quants, one after the other. */
const words = (at: string) => `vec2<u32>(WORD(${at}), WORD(${at} + 4u))`;

/** Nibbles of Q4_K and Q5_K: a group of 32 is in the low halves of 32 bytes, the next one in their high halves. */
const group = (from: number) =>
  `(${words(`at + ${from}u + 32u * (j / 8u) + 8u * (j % 4u)`)} >> vec2<u32>(4u * (j / 4u % 2u)))
    & vec2<u32>(0x0f0f0f0fu)`;

const scaledGroup = {
  offset: 0,
  scale: `vec2<f32>(half_of(SHORT(at)), -half_of(SHORT(at + 2u)))
    * vec2<f32>(six_bits(WORD(at + 4u), WORD(at + 8u), WORD(at + 12u), j / 4u))`,
  shifted: true,
  sharing: 4,
  apart: false,
} as const;

const LAYOUTS: Readonly<Record<GgufBlockType, Layout>> = {
  Q4_0: { ...one, codes: halves(2), offset: 8 },
  Q4_1: { ...pair, codes: halves(4) },
  Q5_0: { ...one, codes: fives(2, 6), offset: 16 },
  Q5_1: { ...pair, codes: fives(4, 8) },
  Q8_0: {
    ...one,
    // Signed bytes, moved into 0 to 255.
    codes: `${words("at + 2u + 8u * j")} ^ vec2<u32>(0x80808080u)`,
    offset: 128,
    apart: false,
  },
  Q4_K: { ...scaledGroup, codes: group(16) },
  Q5_K: {
    ...scaledGroup,
    codes: `${group(48)} | (((${words("at + 16u + 8u * (j % 4u)")} >> vec2<u32>(j / 4u))
    & vec2<u32>(0x01010101u)) << vec2<u32>(4u))`,
  },
  Q6_K: {
    // Two parts of 128 weights, of four lines of 32; scales are for 16.
    codes: `((${words("at + 64u * (j / 16u) + 32u * (j / 4u % 2u) + 8u * (j % 4u)")}
      >> vec2<u32>(4u * (j / 8u % 2u))) & vec2<u32>(0x0f0f0f0fu)) |
    (((${words("at + 128u + 32u * (j / 16u) + 8u * (j % 4u)")} >> vec2<u32>(2u * (j / 4u % 4u)))
      & vec2<u32>(0x03030303u)) << vec2<u32>(4u))`,
    offset: 32,
    scale: "half_of(SHORT(at + 208u)) * signed_byte(SHORT(at + 192u + j / 4u * 2u), j / 2u % 2u)",
    shifted: false,
    sharing: 2,
    apart: false,
  },
};

/** Functions on words, of any weight. */
const COMMON = `
fn halves_of(word: u32) -> vec2<u32> {
  return vec2<u32>(word, word >> 4u) & vec2<u32>(0x0f0f0f0fu);
}
// The low four bits of each word, as bit 4 of its bytes.
fn spread(bits: vec2<u32>) -> vec2<u32> {
  return (((bits & vec2<u32>(15u)) * 0x00204081u) & vec2<u32>(0x01010101u)) << vec2<u32>(4u);
}
// A half-precision number, as in gguf_block.wgsl: small ones must not become 0.
fn half_of(bits: u32) -> f32 {
  let normal = bitcast<f32>(((bits & 0x7fffu) << 13u) + 0x38000000u);
  let small = f32(bits & 0x3ffu) * 5.9604644775390625e-8;
  let size = select(normal, small, (bits & 0x7c00u) == 0u);
  return select(size, -size, (bits & 0x8000u) != 0u);
}
// Byte \`which\` of the low two, with its sign.
fn signed_byte(bits: u32, which: u32) -> f32 {
  return f32(bitcast<i32>(bits << (24u - 8u * which)) >> 24u);
}
// Scale and minimum of a group of K-quants, of 6 bits each, in twelve bytes.
fn six_bits(first: u32, second: u32, third: u32, group: u32) -> vec2<u32> {
  let by = vec2<u32>(8u * (group % 4u));
  let high = (vec2<u32>(first, second) >> by) & vec2<u32>(255u);
  let low = (vec2<u32>(third, third >> 4u) >> by) & vec2<u32>(15u);
  return select(high & vec2<u32>(63u), low | ((high >> vec2<u32>(6u)) << vec2<u32>(4u)), group >= 4u);
}
`;

/** How a stream reads a weight in blocks. */
export function ggufFormat(w: GgufBlockTensor): WeightFormat {
  const { scheme, shape } = w;
  const { weights, bytes } = GGUF_BLOCKS[scheme];
  const { codes, offset, scale, shifted, sharing, apart } = LAYOUTS[scheme];
  const units = weights / UNIT;
  // Blocks of an odd number of half-words: every other begins in the middle of a word.
  const word = bytes % 4 === 0 ? (tag: string) => `return w${tag}[at / 4u];` : (tag: string) => `
  let by = 8u * (at % 4u);
  // A shift by 32 would be one by 0: so it is done in two.
  return (w${tag}[at / 4u] >> by) | ((w${tag}[at / 4u + 1u] << 1u) << (31u - by));`;
  const own = (code: string, tag: string) =>
    code.replaceAll("WORD(", `w${tag}_word(`).replaceAll("SHORT(", `w${tag}_short(`);
  return {
    kind: `gguf-${scheme}`,
    shape,
    unit: UNIT,
    type: "vec2<u32>",
    bindings: [w.packed],
    sharing,
    order: apart ? "apart" : "natural",
    common: { gguf: COMMON },
    prepare: "",
    declare: (binding, tag) => `
@group(0) @binding(${binding}) var<storage, read> w${tag}: array<u32>;
fn w${tag}_word(at: u32) -> u32 {${word(tag)}}
fn w${tag}_short(at: u32) -> u32 { return (w${tag}[at / 4u] >> (8u * (at % 4u))) & 0xffffu; }
fn w${tag}_at(i: u32) -> vec2<u32> {
  let at = i / ${units}u * ${bytes}u;
  let j = i % ${units}u;
  return ${own(codes, tag)};
}
fn s${tag}_at(i: u32) -> ${shifted ? "vec2<f32>" : "f32"} {
  let at = i / ${units}u * ${bytes}u;
  let j = i % ${units}u;
  return ${own(scale, tag)};
}`,
    load: (tag, row, at) => `w${tag}_at(${row} * units + ${at})`,
    scale: (tag, row, at) => `s${tag}_at(${row} * units + ${at})`,
    shifted,
    rowScale: false,
    weight: (name, e) => {
      const codesOf = e < 4 ? `${name}.x` : `${name}.y`;
      const from = 8 * (e % 4);
      return from < 16
        ? field(codesOf, from, 8, offset)
        : field(`(${codesOf} >> 16u)`, from - 16, 8, offset);
    },
  };
}
