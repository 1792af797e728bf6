/**
 * Floating-point formats as a sign, an exponent and a fraction: encoding to any of them, ties to even, and decoding.
 *
 * @module
 */
import { roundHalfEven } from "./rounding.ts";

/** How the bits of a floating-point number are laid out: one for the sign, then these. */
export interface FloatFormat {
  /** Bits of the exponent, whose bias is `2^(exponentBits − 1) − 1`. */
  readonly exponentBits: number;
  /** Bits of the fraction. */
  readonly fractionBits: number;
  /**
   * Whether the codes with the largest exponent are infinity and NaN, as IEEE 754 has it. Without, as in OCP's e4m3, they are
   * numbers too, but for the very last one, which is NaN.
   */
  readonly infinities: boolean;
}

/** What becomes of numbers that are too large. */
export interface EncodeFloatOptions {
  /**
   * The largest finite number stands for all beyond it, infinity included; this is the default. With false they become infinity,
   * or NaN in a format that has no infinity.
   */
  readonly saturate?: boolean;
}

/** Bits of a number in all. */
export function bitsOf({ exponentBits, fractionBits }: FloatFormat): number {
  return 1 + exponentBits + fractionBits;
}

/** What is taken from the stored exponent. */
export function biasOf({ exponentBits }: FloatFormat): number {
  return 2 ** (exponentBits - 1) - 1;
}

/** The code of the largest finite number. */
function mostCode({ exponentBits, fractionBits, infinities }: FloatFormat): number {
  return infinities
    ? (2 ** exponentBits - 1) * 2 ** fractionBits - 1
    : 2 ** (exponentBits + fractionBits) - 2;
}

/** The largest finite number. */
export function largestOf(format: FloatFormat): number {
  return decodeFloat(mostCode(format), format);
}

const parts = new DataView(new ArrayBuffer(8));

/** The power of two below a positive number or at it; of float64's subnormals −1023. */
function exponentOf(value: number): number {
  parts.setFloat64(0, value);
  return (parts.getUint16(0) >> 4 & 0x7ff) - 1023;
}

/** The code of the number next to `value`, of two that are as near the even one. NaN gets the code with all bits but the sign. */
export function encodeFloat(
  value: number,
  format: FloatFormat,
  { saturate = true }: EncodeFloatOptions = {},
): number {
  const { exponentBits, fractionBits, infinities } = format;
  const nan = 2 ** (exponentBits + fractionBits) - 1;
  if (Number.isNaN(value)) return nan;
  const most = mostCode(format);
  const sign = value < 0 || Object.is(value, -0) ? 2 ** (exponentBits + fractionBits) : 0;
  const size = Math.abs(value);
  const biased = Math.max(1, exponentOf(size) + biasOf(format));
  const step = 2 ** (biased - biasOf(format) - fractionBits);
  // A sum, so that rounding up may carry into the exponent, and so that subnormals need no case of their own.
  const code = (biased - 1) * 2 ** fractionBits + roundHalfEven(size / step);
  if (code <= most) return sign + code;
  return sign + (saturate ? most : infinities ? most + 1 : nan);
}

/** The number that a code stands for. */
export function decodeFloat(code: number, format: FloatFormat): number {
  const { exponentBits, fractionBits, infinities } = format;
  const half = 2 ** (exponentBits + fractionBits);
  const sign = code >= half ? -1 : 1;
  const size = code % half;
  if (size > mostCode(format)) {
    return infinities && size === mostCode(format) + 1 ? sign * Infinity : NaN;
  }
  const stored = Math.floor(size / 2 ** fractionBits);
  const biased = Math.max(1, stored);
  const fraction = size - (biased - 1) * 2 ** fractionBits;
  return sign * fraction * 2 ** (biased - biasOf(format) - fractionBits);
}
