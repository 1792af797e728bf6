/**
 * Weights as kernels read them that take each once: in units of a few neighbouring weights of a row, which a lane loads at once.
 *
 * @module
 */
import type { Binding } from "../../core/binding.ts";
import type { Tensor } from "../../core/tensor.ts";
import { codeSource, codesWgsl, scaleBindings, scalesWgsl } from "../quant/four_bit_decode.ts";
import type { FourBitTensor } from "../quant/four_bit.ts";
import type { IntegerTensor } from "../quant/integer.ts";
import { HALVES_WGSL } from "./halves.ts";

/** How a kernel reads a weight. `tag` is a suffix that tells the weights of one kernel apart; positions are WGSL expressions. */
export interface WeightFormat {
  /** Tells kernels apart. */
  readonly kind: string;
  /** Rows and columns of the weight. */
  readonly shape: readonly [rows: number, columns: number];
  /** Weights in a unit, a multiple of four. */
  readonly unit: number;
  /** The WGSL type of a loaded unit. */
  readonly type: string;
  /** What is bound. */
  readonly bindings: readonly Binding[];
  /**
   * Which columns a unit has: "natural", the next ones, or "apart", of a block of 32 columns four in a row and the four that are 16
   * behind them.
   */
  readonly order: "natural" | "apart";
  /** Neighbouring units of a row that certainly share a scale, a power of two; 1 where nothing is to be shared. */
  readonly sharing: number;
  /** WGSL that several weights of a kernel may need, declared once: by name. */
  readonly common: Readonly<Record<string, string>>;
  /** A statement at the start of the kernel, which needs `t`. */
  readonly prepare: string;
  /** Declares the bindings. */
  declare(firstBinding: number, tag: string): string;
  /** The expression of a unit as it lies in memory. */
  load(tag: string, row: string, unit: string): string;
  /** The expression of its scale, or "" without scales. */
  scale(tag: string, row: string, unit: string): string;
  /** Whether a scale is a pair: what a weight is multiplied by, and what is then added. */
  readonly shifted: boolean;
  /** Whether a row has one scale. */
  readonly rowScale: boolean;
  /** The expression of weight `e` of a loaded unit, before it is scaled. */
  weight(unit: string, e: number): string;
}

const XYZW = "xyzw";

/** f32 or f16 [N, K], K a multiple of four. */
export function denseFormat(
  w: Tensor,
  shape: readonly [rows: number, columns: number] = [w.shape[0], w.shape[1]],
): WeightFormat {
  const isHalf = w.dtype === "f16";
  const type = isHalf ? "vec2<u32>" : "vec4<f32>";
  return {
    kind: isHalf ? "f16" : "f32",
    shape,
    unit: 4,
    type,
    bindings: [w],
    order: "natural",
    sharing: 1,
    common: isHalf ? { halves: HALVES_WGSL } : {},
    prepare: "",
    declare: (binding, tag) =>
      `@group(0) @binding(${binding}) var<storage, read> w${tag}: array<${type}>;`,
    load: (tag, row, unit) => `w${tag}[${row} * units + ${unit}]`,
    scale: () => "",
    shifted: false,
    rowScale: false,
    weight: (unit, e) => isHalf ? `halves(${unit}).${XYZW[e]}` : `${unit}.${XYZW[e]}`,
  };
}

/** Whether a format's numbers are plain: 32- or 16-bit floats. */
export function isDense({ kind }: WeightFormat): boolean {
  return kind === "f32" || kind === "f16";
}

/** Where the eight codes lie in a word: the first of each byte is in the high half. */
const SHIFTS = [4, 0, 12, 8, 20, 16, 28, 24];

/** Words of codes side by side, for `words` of 1, 2 or 4. */
function wordType(words: number): string {
  return words === 1 ? "u32" : `vec${words}<u32>`;
}

function wordOf(unit: string, words: number, index: number): string {
  return words === 1 ? unit : `${unit}.${XYZW[index]}`;
}

/** 4-bit floats with K a multiple of the unit, of eight codes times `words`. */
export function fourBitFormat(w: FourBitTensor, words: 1 | 2 | 4): WeightFormat {
  const source = codeSource(w.device, "together");
  const unit = 8 * words;
  const { type, blockSize, shape } = w;
  const aligned = shape[1] % blockSize === 0;
  return {
    kind: [type, w.scales.kind, blockSize, words, aligned, source].join("-"),
    shape,
    unit,
    type: wordType(words),
    bindings: [w.packed, ...scaleBindings(w)],
    order: "natural",
    sharing: aligned ? blockSize / unit : 1,
    common: { [type]: codesWgsl(type, type, source) },
    prepare: `prepare_${type}(t);`,
    declare: (binding, tag) =>
      `@group(0) @binding(${binding}) var<storage, read> w${tag}: array<${wordType(words)}>;` +
      scalesWgsl(`s${tag}`, w, binding + 1),
    load: (tag, row, unit) => `w${tag}[${row} * units + ${unit}]`,
    scale: (tag, row, at) => `s${tag}_at((${row} * units + ${at}) / ${blockSize / unit}u)`,
    shifted: false,
    rowScale: false,
    weight: (unit, e) => `${type}_at(${wordOf(unit, words, e >> 3)}, ${SHIFTS[e & 7]}u)`,
  };
}

/**
 * Bits of a word as a float, exactly and without a conversion, which GPUs are slow at: as the mantissa of a number whose exponent
 * gives the field's lowest bit the weight 1. `offset` is taken off.
 */
export function field(word: string, from: number, bits: number, offset: number): string {
  const mask = ((2 ** bits - 1) * 2 ** from).toString(16);
  const exponent = ((127 + 23 - from) * 2 ** 23).toString(16);
  return `(bitcast<f32>((${word} & 0x${mask}u) | 0x${exponent}u) - ${2 ** (23 - from) + offset}.0)`;
}

/** Weights of an integer tensor that lie in whole words, or, where those of 3 bits do not, in whole bytes. */
const LEAST_UNIT: Readonly<Record<number, number>> = { 8: 4, 4: 8, 3: 8, 2: 8 };

/**
 * Whether units of so many weights of an integer tensor lie within rows and groups, so that `integerFormat` can be used with them; by
 * default the least units that there are, 4 weights of int8 and 8 of others.
 */
export function fitsIntegerFormat(w: IntegerTensor, unit: number = LEAST_UNIT[w.bits]): boolean {
  return w.shape[1] % unit === 0 && (w.groups === 1 || w.groupSize % unit === 0);
}

/**
 * How units lie in memory. A word has 32 / bits codes; of those of 3 bits eight are three bytes, which may lie across two words, and
 * are loaded into the low bits of a word of their own.
 */
function unitsOf(bits: number, unit: number): {
  readonly perWord: number;
  /** A function `w${tag}_at(unit)`, or null where a unit is an element of the array. */
  readonly gather: ((tag: string) => string) | null;
} {
  if (bits === 2 && unit === 8) {
    return {
      perWord: 8,
      gather: (tag) =>
        `fn w${tag}_at(i: u32) -> u32 { return w${tag}[i / 2u] >> (16u * (i & 1u)); }`,
    };
  }
  if (bits !== 3) return { perWord: 32 / bits, gather: null };
  return {
    perWord: 8,
    gather: unit === 8
      // A shift by 32 would be one by 0: so it is done in two.
      ? (tag) => `
fn w${tag}_at(i: u32) -> u32 {
  let at = 3u * i / 4u;
  let shift = (24u * i) % 32u;
  return (w${tag}[at] >> shift) | ((w${tag}[at + 1u] << 1u) << (31u - shift));
}`
      : (tag) => `
fn w${tag}_at(i: u32) -> vec2<u32> {
  let at = 3u * i / 2u;
  let a = w${tag}[at];
  let b = w${tag}[at + 1u];
  let even = vec2<u32>(a, (a >> 24u) | (b << 8u));
  return select(even, vec2<u32>((a >> 16u) | (b << 16u), b >> 8u), (i & 1u) == 1u);
}`,
  };
}

/** The largest power of two that divides a number of units: so many neighbours lie in one group wherever it begins. */
function powerOfTwoIn(units: number): number {
  return units & -units;
}

/** Units of an integer tensor that `fitsIntegerFormat`: of 4 or 8 weights of int8, of 8 or 16 of others. */
export function integerFormat(w: IntegerTensor, unit: 4 | 8 | 16): WeightFormat {
  const { scheme, bits, groupSize, groups, shape, zeros } = w;
  const { perWord, gather } = unitsOf(bits, unit);
  const words = unit / perWord;
  const rowScale = groups === 1;
  const middle = 2 ** (bits - 1);
  const scaleAt = (tag: string, at: string) => zeros ? `s${tag}_at(${at})` : `s${tag}[${at}].x`;
  // Codes are taken less the middle of their range: sums stay small.
  const pair = (tag: string) => `
fn s${tag}_at(i: u32) -> vec2<f32> {
  let own = s${tag}[i];
  return vec2<f32>(own.x, (${middle}.0 - own.y) * own.x);
}`;
  return {
    kind: [scheme, zeros, rowScale ? "row" : groupSize, unit].join("-"),
    shape,
    unit,
    type: wordType(words),
    bindings: [w.packed, w.scales],
    // Scales without zeros are loaded as fast by every lane, and for int3 nothing is gained; int8 in groups was not timed.
    order: "natural",
    sharing: (bits === 4 || bits === 2) && zeros && !rowScale ? powerOfTwoIn(groupSize / unit) : 1,
    common: {},
    prepare: "",
    declare: (binding, tag) => `
@group(0) @binding(${binding}) var<storage, read> w${tag}: array<${
      gather ? "u32" : wordType(words)
    }>;${gather?.(tag) ?? ""}
@group(0) @binding(${binding + 1}) var<storage, read> s${tag}: array<vec2<f32>>;${
      zeros ? pair(tag) : ""
    }`,
    load: (tag, row, at) =>
      gather ? `w${tag}_at(${row} * units + ${at})` : `w${tag}[${row} * units + ${at}]`,
    scale: (tag, row, at) => {
      if (rowScale) return scaleAt(tag, row);
      const ofRow = `(units * ${unit}u + ${groupSize - 1}u) / ${groupSize}u`;
      return scaleAt(tag, `${row} * (${ofRow}) + ${at} / ${groupSize / unit}u`);
    },
    shifted: zeros,
    rowScale,
    weight: (name, e) => {
      const word = wordOf(name, words, Math.floor(e / perWord));
      const at = e % perWord * bits;
      // Above the sixteenth bit there is no room for an exponent.
      return at < 16
        ? field(word, at, bits, middle)
        : field(`(${word} >> 16u)`, at - 16, bits, middle);
    },
  };
}
