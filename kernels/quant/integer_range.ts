/**
 * Which whole numbers a range of weights becomes: the scale, the zero and the bounds of codes that begin at 0.
 *
 * @module
 */
import type { AffineScheme, Range } from "./affine.ts";
import { roundHalfEven } from "./rounding.ts";

/** How a range becomes a scale; see `AffineScheme`. */
export type IntegerRange = AffineScheme["kind"];

/** All of them. */
export const INTEGER_RANGES = [
  "symmetric",
  "symmetric-full",
  "asymmetric",
] as const satisfies readonly IntegerRange[];

/** Codes `q`, of which each stands for `(q − zero) · scale`. */
export interface IntegerGrid {
  /** The step; 0 for a range of nothing but zeros. */
  readonly scale: number;
  /** The code that stands for 0. */
  readonly zero: number;
  /** The least code in use. */
  readonly least: number;
  /** The largest. */
  readonly most: number;
}

/**
 * The grid of a range, in float32 steps as PyTorch makes them. The range is widened to hold 0.
 *
 * - "symmetric": `absmax / (2^(bits−1) − 1)`, zero in the middle, and the lowest code is not used;
 * - "symmetric-full": `absmax / (2^(bits−1) − 0.5)`, zero in the middle, all codes; the largest number saturates;
 * - "asymmetric": `(high − low) / (2^bits − 1)`, and a zero point.
 */
export function integerGrid({ low, high }: Range, bits: number, range: IntegerRange): IntegerGrid {
  const { fround } = Math;
  const [middle, most] = [2 ** (bits - 1), 2 ** bits - 1];
  if (range === "asymmetric") {
    const below = Math.min(low, 0);
    const scale = fround(fround(Math.max(high, 0) - below) / most);
    return { scale, zero: scale === 0 ? 0 : roundHalfEven(fround(-below / scale)), least: 0, most };
  }
  const isFull = range === "symmetric-full";
  const scale = fround(Math.max(-low, high, 0) / (isFull ? middle - 0.5 : middle - 1));
  return { scale, zero: middle, least: isFull ? 0 : 1, most };
}
