/**
 * The specification of quantize_rows.ts, in float32 steps.
 *
 * @module
 */
import type { ActivationScheme } from "./quantize_rows.ts";
import { roundHalfEven } from "./rounding.ts";

/** Rows of whole numbers on the host. */
export interface RowsRef {
  /** Whole numbers, −128 to 127, as x. */
  readonly codes: Int32Array;
  /** One for each row; NaN where a number of the row is not finite. */
  readonly scales: Float64Array;
}

/** `q = clamp(round(x / scale) + zero, least, 127)`; a row of its own scale has absmax / 127. */
export function quantizeRowsRef(
  x: ArrayLike<number>,
  columns: number,
  scheme: ActivationScheme,
): RowsRef {
  const { fround } = Math;
  const rows = x.length / columns;
  const codes = new Int32Array(x.length);
  const scales = new Float64Array(rows);
  for (let row = 0; row < rows; row++) {
    const own = Array.from({ length: columns }, (_, i) => x[row * columns + i]);
    if (!own.every(Number.isFinite)) {
      scales[row] = NaN;
      continue;
    }
    const most = Math.max(...own.map(Math.abs));
    const zero = scheme.kind === "static" ? scheme.zero : 0;
    const least = (scheme.kind === "static" ? scheme.least : undefined) ?? (zero ? -128 : -127);
    const scale = scheme.kind === "static" ? fround(scheme.scale) : fround(most / 127);
    scales[row] = scheme.kind === "dynamic" && most < 1e-30 ? 0 : scale;
    if (scales[row] === 0) continue;
    for (let i = 0; i < columns; i++) {
      const q = roundHalfEven(fround(own[i] / scale)) + zero;
      codes[row * columns + i] = Math.max(least, Math.min(127, q));
    }
  }
  return { codes, scales };
}
