/**
 * The specification of hqq.ts, for one group.
 *
 * @module
 */
import { roundHalfEven } from "./rounding.ts";

/** Codes, scale and zero of a group of weights with levels 0 to `most`. */
export function hqqRef(
  w: ArrayLike<number>,
  most: number,
): { codes: number[]; scale: number; zero: number } {
  const weights = Array.from(w);
  const [low, high] = [Math.min(...weights), Math.max(...weights)];
  if (high - low < 1e-30) {
    return {
      codes: weights.map(() => low === 0 ? 0 : Math.min(1, most)),
      scale: low === 0 ? 1 : low,
      zero: 0,
    };
  }
  const codesAt = (scale: number, zero: number) =>
    weights.map((x) => Math.max(0, Math.min(most, roundHalfEven(x / scale + zero))));
  const shrink = (e: number, beta: number) =>
    Math.abs(e) < 1e-12
      ? 0
      : Math.sign(e) * Math.max(Math.abs(e) - Math.abs(e) ** (0.7 - 1) / beta, 0);
  let best = { scale: 1, zero: 0, error: Infinity };
  for (let share = 0; share < 8; share++) {
    const part = 1 - 0.03 * share;
    const scale = (high - low) * part / most;
    const start = -(low + 0.5 * (1 - part) * (high - low)) / scale;
    let zero = share === 0 ? roundHalfEven(start) : start;
    let [before, beta] = [Infinity, 10];
    for (let step = 0; step < 20; step++) {
      const codes = codesAt(scale, zero);
      const errors = weights.map((x, i) => x - (codes[i] - zero) * scale);
      const error = errors.reduce((sum, e) => sum + Math.abs(e), 0);
      if (error < best.error) best = { scale, zero, error };
      if (error >= before) break;
      before = error;
      const zeros = errors.map((e, i) => codes[i] - (weights[i] - shrink(e, beta)) / scale);
      zero = zeros.reduce((sum, z) => sum + z, 0) / weights.length;
      beta *= 1.01;
    }
  }
  return { codes: codesAt(best.scale, best.zero), scale: best.scale, zero: best.zero };
}
