/**
 * The specification of fp8.ts: every number of a type spelled out by hand, and the nearest one found by looking at all of them.
 *
 * @module
 */
import type { Fp8Type } from "./fp8.ts";

/** The number that a byte stands for, from its bits as text. */
export function decodeFp8Ref(byte: number, type: Fp8Type): number {
  const bits = byte.toString(2).padStart(8, "0");
  const [split, bias] = type === "e4m3" ? [5, 7] : [6, 15];
  const exponent = parseInt(bits.slice(1, split), 2);
  const fraction = parseInt(bits.slice(split), 2) / 2 ** (8 - split);
  const sign = bits[0] === "1" ? -1 : 1;
  if (type === "e4m3" && byte % 128 === 127) return NaN;
  if (type === "e5m2" && exponent === 31) return fraction === 0 ? sign * Infinity : NaN;
  if (exponent === 0) return sign * fraction * 2 ** (1 - bias);
  return sign * (1 + fraction) * 2 ** (exponent - bias);
}

/** The byte whose number is nearest, the even one of two; saturating. */
export function encodeFp8Ref(value: number, type: Fp8Type): number {
  if (Number.isNaN(value)) return 127;
  const negative = value < 0 || Object.is(value, -0);
  let [best, distance] = [0, Infinity];
  for (let code = 0; code < 128; code++) {
    const own = decodeFp8Ref(code, type);
    if (!Number.isFinite(own)) continue;
    const error = Math.abs(Math.min(Math.abs(value), type === "e4m3" ? 448 : 57344) - own);
    if (error < distance || (error === distance && code % 2 === 0)) {
      [best, distance] = [code, error];
    }
  }
  return best + (negative ? 128 : 0);
}
