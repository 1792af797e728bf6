/**
 * The specification of fake_quant.ts, and of its gradients, which are not those of the function itself: rounding has slope 0.
 *
 * @module
 */
import { roundHalfEven } from "./rounding.ts";

/** Numbers of one group with one scale, and the bounds of its whole numbers. */
export interface FakeQuantCase {
  readonly x: ArrayLike<number>;
  readonly scale: number;
  readonly zero: number;
  readonly least: number;
  readonly most: number;
}

function clamp(value: number, least: number, most: number): number {
  return Math.max(least, Math.min(most, value));
}

/** `(clamp(round(x / scale) + zero) − zero) · scale`; x itself with a scale of 0, or where it is not finite. */
export function fakeQuantRef({ x, scale, zero, least, most }: FakeQuantCase): number[] {
  if (scale === 0) return Array.from(x);
  const z = clamp(roundHalfEven(zero), least, most);
  const round = (v: number) => (clamp(roundHalfEven(v / scale) + z, least, most) - z) * scale;
  return Array.from(x, (v) => Number.isFinite(v) ? round(v) : v);
}

/** The gradients of numbers, scale and zero, from that of the result; those of scale and zero are scaled by `factor`. */
export function fakeQuantGradientsRef(
  { x, scale, zero, least, most }: FakeQuantCase,
  dY: ArrayLike<number>,
  factor: number,
): { x: number[]; scale: number; zero: number } {
  if (scale === 0) return { x: Array.from(dY), scale: 0, zero: 0 };
  const z = clamp(roundHalfEven(zero), least, most);
  const out = { x: [] as number[], scale: 0, zero: 0 };
  for (let i = 0; i < x.length; i++) {
    const level = roundHalfEven(x[i] / scale) + z;
    const inside = level >= least && level <= most;
    const bound = clamp(level, least, most) - z;
    out.x.push(inside ? dY[i] : 0);
    out.scale += factor * dY[i] * (inside ? bound - x[i] / scale : bound);
    if (!inside) out.zero -= factor * dY[i] * scale;
  }
  return out;
}
