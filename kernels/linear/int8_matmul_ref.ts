/**
 * The specification of int8_matmul.ts, in float64 with exact integers.
 *
 * @module
 */
import type { RowsRef } from "../quant/quantize_rows_ref.ts";

/** Integer weights on the host. */
export interface IntegerRef {
  /** [n, k]: whole numbers. */
  readonly codes: ArrayLike<number>;
  /** [n, groups]: a weight is `(code − zero) · scale`. */
  readonly scales: ArrayLike<number>;
  readonly zeros: ArrayLike<number>;
  readonly groupSize: number;
}

/** `y = s_x Σ_groups s_w Σ (q_x − z_x)(q_w − z_w) (+ add)`. */
export function int8MatmulRef(
  x: RowsRef,
  zero: number,
  { codes, scales, zeros, groupSize }: IntegerRef,
  [m, n, k]: readonly [number, number, number],
  add?: ArrayLike<number>,
): Float64Array {
  const groups = Math.ceil(k / groupSize);
  const out = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let total = 0;
      for (let c = 0; c < k; c++) {
        const group = j * groups + Math.floor(c / groupSize);
        total += (x.codes[i * k + c] - zero) * (codes[j * k + c] - zeros[group]) * scales[group];
      }
      out[i * n + j] = x.scales[i] * total + (add ? add[i * n + j] : 0);
    }
  }
  return out;
}
