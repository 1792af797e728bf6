/**
 * The specification of gptq.ts: one row of a weight matrix, column by column.
 *
 * @module
 */
import { type AffineScheme, levelsOf } from "./affine.ts";
import { roundHalfEven } from "./rounding.ts";

/** What GPTQ makes of a row. */
export interface GptqRow {
  /** Whole numbers less the least of the scheme. */
  readonly codes: number[];
  /** The decoded weights. */
  readonly weights: number[];
}

/**
 * Quantizes a row with the upper triangular factor U of the inverse Hessian, `H⁻¹ = UᵀU`: what column i loses, divided by U_ii, is
 * taken off the later columns by row i of U. Scales are taken where a group begins, from weights that were corrected so far.
 */
export function gptqRowRef(
  row: ArrayLike<number>,
  u: ArrayLike<number>,
  scheme: AffineScheme,
  groupSize: number,
): GptqRow {
  const { least, most } = levelsOf(scheme);
  const n = row.length;
  const w = Array.from(row);
  const out = { codes: [] as number[], weights: [] as number[] };
  let [scale, zero] = [1, 0];
  for (let i = 0; i < n; i++) {
    if (i % groupSize === 0) {
      const group = w.slice(i, i + groupSize);
      const low = Math.min(0, ...group);
      const high = Math.max(0, ...group);
      scale = scheme.kind === "asymmetric"
        ? (high - low) / (most - least)
        : Math.max(-low, high) / most;
      if (scale < 1e-30) scale = 1;
      zero = scheme.kind === "asymmetric"
        ? Math.max(least, Math.min(most, least - roundHalfEven(low / scale)))
        : 0;
    }
    const code = Math.max(least, Math.min(most, roundHalfEven(w[i] / scale) + zero));
    const decoded = (code - zero) * scale;
    const error = (w[i] - decoded) / u[i * n + i];
    for (let j = i + 1; j < n; j++) w[j] -= error * u[i * n + j];
    out.codes.push(code - least);
    out.weights.push(decoded);
  }
  return out;
}
