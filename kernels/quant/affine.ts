/**
 * Whole numbers for real ones: `q = clamp(round(x / scale) + zero)` and back, `(q − zero) · scale`, every step rounded to float32
 * and ties to the even number, as PyTorch does it. Jacob et al. (arXiv 1712.05877).
 *
 * @module
 */
import { roundHalfEven } from "./rounding.ts";

/** Which whole numbers there are, and how a range becomes a scale. */
export interface AffineScheme {
  /** Bits of a number, 2 to 8. */
  readonly bits: number;
  /**
   * "symmetric": zero stays at 0 and the scale is `absmax / (2^(bits−1) − 1)`, so that nothing overflows.
   * "symmetric-full": the scale is `absmax / ((most − least) / 2)`, 127.5 for 8 bits; the largest number saturates, as PyTorch's
   * symmetric observers have it.
   * "asymmetric": `(max − min) / (most − least)` with a whole zero point; the range is widened to hold 0.
   */
  readonly kind: "symmetric" | "symmetric-full" | "asymmetric";
  /**
   * "signed": −2^(bits−1) to 2^(bits−1) − 1. "restricted": the same without the lowest. "unsigned": 0 to 2^bits − 1.
   * By default "restricted" with symmetric, "signed" with symmetric-full, "unsigned" with asymmetric.
   */
  readonly levels?: "signed" | "restricted" | "unsigned";
}

/** The least and the largest whole number of a scheme. */
export interface Levels {
  /** The least. */
  readonly least: number;
  /** The largest. */
  readonly most: number;
}

/** What turns numbers into whole ones. */
export interface AffineParameters {
  /** The step between two neighbours. */
  readonly scale: number;
  /** The whole number that stands for 0. */
  readonly zero: number;
}

/** A range of numbers. */
export interface Range {
  /** The least. */
  readonly low: number;
  /** The largest. */
  readonly high: number;
}

const { fround } = Math;

/** The least scale: float32's machine epsilon, as PyTorch's observers have it, so that a range of nothing divides nothing by 0. */
export const LEAST_SCALE = 2 ** -23;

/**
 * The whole numbers of a scheme.
 *
 * @throws {RangeError} if `bits` is not 2 to 8, or there is no such kind
 *
 * @example
 * ```ts
 * import { levelsOf } from "@nibble/nibble";
 *
 * console.log(levelsOf({ bits: 8, kind: "symmetric" })); // { least: -127, most: 127 }
 * ```
 */
export function levelsOf({ bits, kind, levels }: AffineScheme): Levels {
  if (!Number.isInteger(bits) || bits < 2 || bits > 8) {
    throw new RangeError(`Cannot quantize to ${bits} bits: wanted a whole number from 2 to 8`);
  }
  if (kind !== "symmetric" && kind !== "symmetric-full" && kind !== "asymmetric") {
    throw new RangeError(
      `Cannot quantize with a range that is ${
        JSON.stringify(kind)
      }: wanted "symmetric", "symmetric-full" or "asymmetric"`,
    );
  }
  const natural = kind === "symmetric"
    ? "restricted"
    : kind === "asymmetric"
    ? "unsigned"
    : "signed";
  const chosen = levels ?? natural;
  if (chosen === "unsigned") return { least: 0, most: 2 ** bits - 1 };
  const half = 2 ** (bits - 1);
  return { least: chosen === "restricted" ? 1 - half : -half, most: half - 1 };
}

/**
 * Scale and zero point for numbers within a range.
 *
 * @param range the least and the largest number; both finite
 * @param scheme the whole numbers
 * @throws {RangeError} if the range is empty or not finite
 *
 * @example The list −0.5, 1.2, −0.8, 2.0, 0.3 in INT8
 * ```ts
 * import { affineParameters, quantizeAffine } from "@nibble/nibble";
 *
 * const scheme = { bits: 8, kind: "symmetric" } as const;
 * const parameters = affineParameters({ low: -0.8, high: 2 }, scheme); // scale 2 / 127
 * console.log(quantizeAffine([-0.5, 1.2, -0.8, 2, 0.3], parameters, scheme)); // [ -32, 76, -51, 127, 19 ]
 * ```
 */
export function affineParameters(range: Range, scheme: AffineScheme): AffineParameters {
  const { least, most } = levelsOf(scheme);
  if (!(Number.isFinite(range.low) && Number.isFinite(range.high) && range.low <= range.high)) {
    throw new RangeError(
      `Cannot quantize numbers from ${range.low} to ${range.high}: wanted a finite range; ` +
        "look for NaN or infinity in the numbers, or observe some first",
    );
  }
  const low = Math.min(fround(range.low), 0);
  const high = Math.max(fround(range.high), 0);
  if (scheme.kind === "asymmetric") {
    const scale = Math.max(fround(fround(high - low) / (most - least)), LEAST_SCALE);
    const zero = least - roundHalfEven(fround(low / scale));
    return { scale, zero: Math.max(least, Math.min(most, zero)) };
  }
  const steps = scheme.kind === "symmetric" ? 2 ** (scheme.bits - 1) - 1 : (most - least) / 2;
  // Unsigned numbers that are symmetric have their zero in the middle.
  const zero = least === 0 ? 2 ** (scheme.bits - 1) : 0;
  return { scale: Math.max(fround(Math.max(-low, high) / steps), LEAST_SCALE), zero };
}

/** `clamp(round(x / scale) + zero)`. Numbers outside the range saturate. */
export function quantizeAffine(
  numbers: ArrayLike<number>,
  { scale, zero }: AffineParameters,
  scheme: AffineScheme,
): Int32Array<ArrayBuffer> {
  const { least, most } = levelsOf(scheme);
  return Int32Array.from(
    numbers,
    (x) => Math.max(least, Math.min(most, roundHalfEven(fround(fround(x) / scale)) + zero)),
  );
}

/** `(q − zero) · scale`. */
export function dequantizeAffine(
  codes: ArrayLike<number>,
  { scale, zero }: AffineParameters,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(codes, (q) => fround((q - zero) * scale));
}
