/** The specification of gemv.ts: y = alpha · x · Wᵀ + add, for x [rows, k] and W [n, k]. */
export function gemvRef(
  x: ArrayLike<number>,
  w: ArrayLike<number>,
  dims: { rows: number; n: number; k: number; alpha?: number; add?: ArrayLike<number> },
): Float64Array {
  const { rows, n, k, alpha = 1, add } = dims;
  const y = new Float64Array(rows * n);
  for (let row = 0; row < rows; row++) {
    for (let j = 0; j < n; j++) {
      let total = 0;
      for (let q = 0; q < k; q++) total += x[row * k + q] * w[j * k + q];
      y[row * n + j] = alpha * total + (add ? add[row * n + j] : 0);
    }
  }
  return y;
}
