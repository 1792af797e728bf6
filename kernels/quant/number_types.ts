/**
 * The number types that weights are stored in, each with what can be said of it: bits, range, steps, rounding, bytes.
 *
 * @module
 */
import {
  biasOf,
  bitsOf,
  decodeFloat,
  encodeFloat,
  type FloatFormat,
  largestOf,
} from "./float_format.ts";
import { FP8_FORMATS } from "./fp8.ts";
import { roundHalfEven } from "./rounding.ts";
import { tableOf, thresholdsOf } from "./tables.ts";

/** A number that lies between two that a type has. */
export interface RoundingExample {
  /** The number. */
  readonly value: number;
  /** The type's next number below. */
  readonly below: number;
  /** The type's next number above. */
  readonly above: number;
  /** Which of them it becomes. */
  readonly rounded: number;
  /** The code of that, as bits with a space between sign, exponent and fraction. */
  readonly bits: string;
}

/** What a model takes in a type. */
export interface ModelSize {
  /** What is stored beside the numbers, in words; empty where nothing is. */
  readonly scales: string;
  /** Bits of a weight with its share of that. */
  readonly bitsPerWeight: number;
  /** Bytes of all weights without it. */
  readonly bytes: number;
  /** Bytes of all weights with it. */
  readonly bytesWithScales: number;
}

/** A number type. */
export interface NumberType {
  /** As papers write it: "BF16", "FP8 e4m3", "NF4". */
  readonly name: string;
  /** A float has a sign, an exponent and a fraction; an integer counts; a table lists 16 numbers between −1 and 1. */
  readonly kind: "float" | "integer" | "table";
  /** Bits of a number. */
  readonly bits: number;
  /** What they are for, in order from the highest; a table's code is one field. */
  readonly layout: readonly { readonly field: string; readonly bits: number }[];
  /** What is taken from a float's stored exponent; null for the others. */
  readonly bias: number | null;
  /** The least finite number. */
  readonly least: number;
  /** The largest finite number. */
  readonly most: number;
  /** The smallest positive number with all its digits: of a float, what is less is subnormal and loses digits; null for the others. */
  readonly smallestNormal: number | null;
  /** The smallest positive number. */
  readonly smallest: number;
  /** The distances to the neighbours of 1: below, and above. Of 1 itself, or in a table of its largest number, there may be one only. */
  readonly nearOne: { readonly below: number; readonly above: number | null };
  /** Numbers between two neighbours: floats and integers round to nearest, ties to even; a table's ties go down. */
  readonly rounding: readonly RoundingExample[];
  /** What is said of infinities and NaN. */
  readonly special: string;
  /** How many finite numbers there are; +0 and −0 are two. */
  readonly count: number;
  /** A model's size. */
  readonly model: ModelSize;
}

/** The float formats by name. */
const FLOATS: readonly (readonly [name: string, format: FloatFormat])[] = [
  ["FP32", { exponentBits: 8, fractionBits: 23, infinities: true }],
  ["FP16", { exponentBits: 5, fractionBits: 10, infinities: true }],
  ["BF16", { exponentBits: 8, fractionBits: 7, infinities: true }],
  ["FP8 e4m3", FP8_FORMATS.e4m3],
  ["FP8 e5m2", FP8_FORMATS.e5m2],
];

/** Bits beside each weight, and what they are. */
const SCALES: Readonly<Record<string, readonly [bits: number, what: string]>> = {
  "FP8 e4m3": [32 / 4096, "a 32-bit scale for each row of 4,096"],
  "FP8 e5m2": [32 / 4096, "a 32-bit scale for each row of 4,096"],
  INT8: [32 / 4096, "a 32-bit scale for each row of 4,096"],
  INT4: [(32 + 4) / 64, "a 32-bit scale and a 4-bit zero point for each 64"],
  NF4: [32 / 64, "a 32-bit scale for each 64; 4.127 bits with double quantization"],
  FP4: [32 / 64, "a 32-bit scale for each 64; 4.127 bits with double quantization"],
};

function sizeOf(name: string, bits: number, weights: number): ModelSize {
  const [beside, scales] = SCALES[name] ?? [0, ""];
  return {
    scales,
    bitsPerWeight: bits + beside,
    bytes: weights * bits / 8,
    bytesWithScales: weights * (bits + beside) / 8,
  };
}

/** A code's bits, spaced by field. */
function spaced(code: number, widths: readonly number[]): string {
  const total = widths.reduce((sum, width) => sum + width, 0);
  const text = code.toString(2).padStart(total, "0");
  let at = 0;
  return widths.map((width) => text.slice(at, at += width)).join(" ");
}

function floatType(name: string, format: FloatFormat, weights: number): NumberType {
  const { exponentBits, fractionBits, infinities } = format;
  const widths = [1, exponentBits, fractionBits];
  const most = largestOf(format);
  const step = 2 ** -fractionBits;
  const example = (value: number): RoundingExample => {
    const code = encodeFloat(value, format);
    const rounded = decodeFloat(code, format);
    const [below, above] = rounded <= value
      ? [rounded, decodeFloat(code + 1, format)]
      : [decodeFloat(code - 1, format), rounded];
    return { value, below, above, rounded, bits: spaced(code, widths) };
  };
  return {
    name,
    kind: "float",
    bits: bitsOf(format),
    layout: ["sign", "exponent", "fraction"].map((field, i) => ({ field, bits: widths[i] })),
    bias: biasOf(format),
    least: -most,
    most,
    smallestNormal: 2 ** (1 - biasOf(format)),
    smallest: 2 ** (1 - biasOf(format) - fractionBits),
    nearOne: { below: step / 2, above: step },
    rounding: [example(0.1), example(1 + step / 2), example(1 + 1.5 * step)],
    special: infinities ? "infinity and NaN" : "NaN, no infinity",
    count: infinities ? 2 * (2 ** exponentBits - 1) * 2 ** fractionBits : 2 ** bitsOf(format) - 2,
    model: sizeOf(name, bitsOf(format), weights),
  };
}

function integerType(name: string, bits: number, weights: number): NumberType {
  const half = 2 ** (bits - 1);
  const example = (value: number): RoundingExample => {
    const rounded = roundHalfEven(value);
    const code = (rounded + 2 * half) % (2 * half);
    return {
      value,
      below: Math.floor(value),
      above: Math.ceil(value),
      rounded,
      bits: spaced(code, [1, bits - 1]),
    };
  };
  return {
    name,
    kind: "integer",
    bits,
    layout: [{ field: "sign", bits: 1 }, { field: "value", bits: bits - 1 }],
    bias: null,
    least: -half,
    most: half - 1,
    smallestNormal: null,
    smallest: 1,
    nearOne: { below: 1, above: 1 },
    rounding: [example(0.1), example(2.5), example(3.5), example(-1.5)],
    special: "none; times a scale",
    count: 2 * half,
    model: sizeOf(name, bits, weights),
  };
}

function tableType(name: "NF4" | "FP4", weights: number): NumberType {
  const type = name === "NF4" ? "nf4" : "fp4";
  const table = tableOf(type);
  const { thresholds, codes } = thresholdsOf(type);
  const sorted = Array.from(codes, (code) => table[code]);
  const example = (value: number): RoundingExample => {
    const place = thresholds.filter((threshold) => value > threshold).length;
    const above = sorted.findIndex((own) => own > value);
    return {
      value,
      below: sorted[above - 1],
      above: sorted[above],
      rounded: sorted[place],
      bits: spaced(codes[place], [4]),
    };
  };
  return {
    name,
    kind: "table",
    bits: 4,
    layout: [{ field: "code", bits: 4 }],
    bias: null,
    least: -1,
    most: 1,
    smallestNormal: null,
    smallest: Math.min(...sorted.filter((own) => own > 0)),
    nearOne: { below: 1 - sorted.at(-2)!, above: null },
    rounding: [example(0.1), example(thresholds[14])],
    special: name === "NF4" ? "none; times a scale" : "+0 and −0; times a scale",
    count: 16,
    model: sizeOf(name, 4, weights),
  };
}

/**
 * The number types that weights are stored in, from FP32 to FP4. INT3 and INT2 are as INT4, in fewer bits.
 *
 * @param weights how many a model has, for its size: 7 billion by default
 * @throws {RangeError} unless that is a number above 0
 *
 * @example
 * ```ts
 * import { numberTypes } from "@nibble/nibble";
 *
 * for (const { name, bits, most, smallest, model } of numberTypes()) {
 *   console.log(name, bits, most, smallest, `${model.bytesWithScales / 1e9} GB`);
 * }
 * ```
 */
export function numberTypes(weights = 7e9): NumberType[] {
  if (!(Number.isFinite(weights) && weights > 0)) {
    throw new RangeError(`Cannot tell the size of ${weights} weights: wanted a number above 0`);
  }
  const [fp32, fp16, bf16, ...fp8] = FLOATS.map(([name, own]) => floatType(name, own, weights));
  return [
    fp32,
    fp16,
    bf16,
    ...fp8,
    integerType("INT8", 8, weights),
    integerType("INT4", 4, weights),
    tableType("NF4", weights),
    tableType("FP4", weights),
  ];
}
