/**
 * Quantization of a small matrix with every number on the way: for reading, not for speed.
 *
 * @module
 */
import { showShape } from "../../core/shape.ts";
import {
  type AffineParameters,
  affineParameters,
  type AffineScheme,
  dequantizeAffine,
  LEAST_SCALE,
  levelsOf,
  quantizeAffine,
} from "./affine.ts";
import { roundHalfEven } from "./rounding.ts";
import { type FourBitType, tableOf, thresholdsOf } from "./tables.ts";

/** What is explained. */
export interface ExplainOptions {
  /** Whole numbers, or a table of 16. */
  readonly scheme: AffineScheme | FourBitType;
  /** Which numbers share a scale: all, those of a row, or so many along a row. "tensor" by default. */
  readonly granularity?: "tensor" | "channel" | "group";
  /** Numbers of a group; the last of a row may be shorter. */
  readonly groupSize?: number;
}

/** One number on its way. */
export interface ExplainedNumber {
  /** Its row. */
  readonly row: number;
  /** Its column. */
  readonly column: number;
  /** The number, in 32 bits. */
  readonly value: number;
  /** Divided by the scale, or by a table's absmax. */
  readonly divided: number;
  /** That rounded to a whole number, ties to even, and the zero point added; of a table, null. */
  readonly rounded: number | null;
  /** What is stored: `rounded` within the scheme's bounds, or the place in the table. */
  readonly code: number;
  /** Whether the bounds changed it. */
  readonly saturated: boolean;
  /** What comes back. */
  readonly decoded: number;
  /** `decoded − value`. */
  readonly error: number;
}

/** Numbers with one scale. */
export interface ExplainedGroup {
  /** Which, such as "row 1, columns 4 to 7". */
  readonly where: string;
  /** The least number. */
  readonly min: number;
  /** The largest number. */
  readonly max: number;
  /** The largest size. */
  readonly absmax: number;
  /** The step between whole numbers; of a table, absmax. */
  readonly scale: number;
  /** The whole number that stands for 0. */
  readonly zero: number;
  /** How the scale follows from the numbers. */
  readonly formula: string;
  /** Each number. */
  readonly numbers: readonly ExplainedNumber[];
}

/** A matrix quantized. */
export interface Explanation {
  /** Each set of numbers that share a scale. */
  readonly groups: readonly ExplainedGroup[];
  /** The least and the largest code. */
  readonly levels: { readonly least: number; readonly most: number };
  /** The largest `|error|`. */
  readonly largestError: number;
  /** The mean of `error²`. */
  readonly meanSquaredError: number;
  /** How many numbers met a bound. */
  readonly saturated: number;
}

const { fround } = Math;

/** The groups of a matrix: places in it, and a name. */
function* groupsOf(
  [rows, columns]: readonly [number, number],
  { granularity = "tensor", groupSize }: ExplainOptions,
): Generator<{ where: string; places: number[] }> {
  const run = (from: number, to: number) => Array.from({ length: to - from }, (_, i) => from + i);
  if (granularity === "tensor") {
    yield { where: "the whole matrix", places: run(0, rows * columns) };
    return;
  }
  const size = granularity === "channel" ? columns : groupSize;
  if (size === undefined || !Number.isInteger(size) || size < 1) {
    throw new RangeError(
      `Cannot quantize in groups of ${groupSize}: wanted groupSize, a whole number above 0`,
    );
  }
  for (let row = 0; row < rows; row++) {
    for (let from = 0; from < columns; from += size) {
      const to = Math.min(columns, from + size);
      const where = size >= columns ? `row ${row}` : `row ${row}, columns ${from} to ${to - 1}`;
      yield { where, places: run(row * columns + from, row * columns + to) };
    }
  }
}

/** A number in a formula. */
function shown(value: number): string {
  return String(Number(value.toPrecision(6))).replace("-", "−");
}

interface Range {
  readonly min: number;
  readonly max: number;
  readonly absmax: number;
}

/** How an affine scale follows from a range, in words. */
function affineFormula(
  { min, max, absmax }: Range,
  scheme: AffineScheme,
  { scale, zero }: AffineParameters,
): string {
  const { least, most } = levelsOf(scheme);
  // A scale of 0 would divide by 0.
  const end = scale > LEAST_SCALE ? shown(scale) : `less than the least scale, ${shown(scale)}`;
  if (scheme.kind === "asymmetric") {
    const [low, high] = [Math.min(0, min), Math.max(0, max)];
    const minus = low < 0 ? `− (${shown(low)})` : `− ${shown(low)}`;
    return `scale = (max − min) / (${most} − ${shown(least)}) = (${shown(high)} ${minus}) / ${
      most - least
    } = ${end}; zero = ${shown(least)} − round(min / scale) = ${shown(least)} − (${
      shown(roundHalfEven(fround(low / scale)))
    }) = ${shown(zero)}`;
  }
  const steps = scheme.kind === "symmetric" ? 2 ** (scheme.bits - 1) - 1 : (most - least) / 2;
  return `scale = absmax / ${steps} = ${shown(absmax)} / ${steps} = ${end}; zero = 0`;
}

type Place = { row: number; column: number; value: number };

function affineGroup(places: readonly Place[], range: Range, scheme: AffineScheme) {
  const parameters = affineParameters({ low: range.min, high: range.max }, scheme);
  const { scale, zero } = parameters;
  const codes = quantizeAffine(places.map(({ value }) => value), parameters, scheme);
  const decoded = dequantizeAffine(codes, parameters);
  const numbers = places.map((place, i): ExplainedNumber => {
    const divided = fround(place.value / scale);
    const rounded = roundHalfEven(divided) + zero;
    const [code, back] = [codes[i], decoded[i]];
    const saturated = code !== rounded;
    return {
      ...place,
      divided,
      rounded,
      code,
      saturated,
      decoded: back,
      error: back - place.value,
    };
  });
  return { scale, zero, formula: affineFormula(range, scheme, parameters), numbers };
}

function tableGroup(places: readonly Place[], { absmax }: Range, type: FourBitType) {
  const table = tableOf(type);
  const { thresholds, codes } = thresholdsOf(type);
  // As bitsandbytes: by the reciprocal, and never by zero.
  const reciprocal = fround(1 / Math.max(absmax, fround(1e-38)));
  const numbers = places.map((place): ExplainedNumber => {
    const divided = fround(place.value * reciprocal);
    const code = codes[thresholds.filter((threshold) => divided > threshold).length];
    const decoded = fround(table[code] * absmax);
    const error = decoded - place.value;
    return { ...place, divided, rounded: null, code, saturated: false, decoded, error };
  });
  const formula = `scale = absmax = ${shown(absmax)}; the table of ${type} reaches from −1 to 1`;
  return { scale: absmax, zero: 0, formula, numbers };
}

/**
 * Quantizes a matrix and keeps every number on the way. The results are those of `quantizeAffine`, and of NF4 and FP4 as
 * bitsandbytes has them.
 *
 * @param values the numbers, row by row; finite
 * @param shape [rows, columns]
 * @param options the scheme, and which numbers share a scale
 * @throws {RangeError} if there are more or fewer numbers, one is not finite, or a group has no size
 *
 * @example
 * ```ts
 * import { explainQuantization } from "@nibble/nibble";
 *
 * const scheme = { bits: 8, kind: "symmetric" } as const;
 * const { groups } = explainQuantization([-0.5, 1.2, -0.8, 2.0, 0.3], [1, 5], { scheme });
 * console.log(groups[0].formula); // scale = absmax / 127 = 2 / 127 = 0.015748; zero = 0
 * for (const { value, divided, code, decoded } of groups[0].numbers) console.log(value, divided, code, decoded);
 * ```
 */
export function explainQuantization(
  values: ArrayLike<number>,
  shape: readonly [rows: number, columns: number],
  options: ExplainOptions,
): Explanation {
  const [rows, columns] = shape;
  if (values.length === 0 || values.length !== rows * columns) {
    throw new RangeError(
      `Cannot explain a matrix ${showShape(shape)} with ${values.length} numbers: wanted ${
        rows * columns
      }, at least one`,
    );
  }
  const { scheme } = options;
  const groups: ExplainedGroup[] = [];
  for (const { where, places } of groupsOf(shape, options)) {
    const own = places.map((at): Place => {
      const [row, column] = [Math.floor(at / columns), at % columns];
      if (!Number.isFinite(values[at])) {
        throw new RangeError(
          `Cannot quantize the number in row ${row}, column ${column}: it is ${
            values[at]
          }, wanted finite numbers`,
        );
      }
      return { row, column, value: fround(values[at]) };
    });
    const min = own.reduce((least, { value }) => Math.min(least, value), Infinity);
    const max = own.reduce((most, { value }) => Math.max(most, value), -Infinity);
    const range = { min, max, absmax: Math.max(-min, max) };
    const result = typeof scheme === "string"
      ? tableGroup(own, range, scheme)
      : affineGroup(own, range, scheme);
    groups.push({ where, ...range, ...result });
  }
  const all = groups.flatMap(({ numbers }) => numbers);
  return {
    groups,
    levels: typeof scheme === "string" ? { least: 0, most: 15 } : levelsOf(scheme),
    largestError: all.reduce((most, { error }) => Math.max(most, Math.abs(error)), 0),
    meanSquaredError: all.reduce((sum, { error }) => sum + error ** 2, 0) / all.length,
    saturated: all.filter(({ saturated }) => saturated).length,
  };
}

/** What INT8 makes of a number with the wrong scale. */
export interface OverflowingNumber {
  /** The number. */
  readonly value: number;
  /** `round(value / scale)`. */
  readonly rounded: number;
  /** Whether that is not within −128 to 127. */
  readonly overflows: boolean;
  /** What a byte holds if the upper bits are dropped. */
  readonly wrapped: number;
  /** What comes back then. */
  readonly decodedWrapped: number;
  /** What comes back if it saturates instead. */
  readonly decodedSaturated: number;
}

/**
 * What goes wrong with `(max − min) / 255` as a symmetric scale, as many texts have it: that scale belongs with a zero point. Without
 * one, numbers beyond half the range do not fit into INT8. The right scale is `absmax / 127`.
 *
 * @param values finite numbers, at least one
 * @throws {RangeError} if they all are equal, so that the scale would be 0
 *
 * @example
 * ```ts
 * import { explainOverflow } from "@nibble/nibble";
 *
 * const { numbers } = explainOverflow([-0.5, 1.2, -0.8, 2.0, 0.3]);
 * console.log(numbers[3]); // 2.0 becomes 182, which a byte holds as −74: −0.81 comes back
 * ```
 */
export function explainOverflow(
  values: ArrayLike<number>,
): { scale: number; overflows: number; numbers: OverflowingNumber[] } {
  const own = Array.from(values, fround);
  const scale = fround((Math.max(...own) - Math.min(...own)) / 255);
  if (!(scale > 0)) {
    throw new RangeError(
      `Cannot divide by (max − min) / 255 of ${own.length} equal numbers: wanted different ones`,
    );
  }
  const numbers = own.map((value): OverflowingNumber => {
    const rounded = roundHalfEven(fround(value / scale));
    const wrapped = rounded << 24 >> 24;
    const saturated = Math.max(-128, Math.min(127, rounded));
    return {
      value,
      rounded,
      overflows: saturated !== rounded,
      wrapped,
      decodedWrapped: fround(wrapped * scale),
      decodedSaturated: fround(saturated * scale),
    };
  });
  return { scale, overflows: numbers.filter(({ overflows }) => overflows).length, numbers };
}
