/** The specification of matmul.ts: C = alpha · A·B + add for one pair of matrices. */
export function matmulRef(
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  dims: {
    m: number;
    n: number;
    k: number;
    transposeA?: boolean;
    transposeB?: boolean;
    alpha?: number;
    add?: ArrayLike<number>;
  },
): Float64Array {
  const { m, n, k, transposeA, transposeB, alpha = 1, add } = dims;
  const c = new Float64Array(m * n);
  for (let i = 0; i < m; i++) {
    for (let j = 0; j < n; j++) {
      let total = 0;
      for (let q = 0; q < k; q++) {
        total += a[transposeA ? q * m + i : i * k + q] * b[transposeB ? j * k + q : q * n + j];
      }
      c[i * n + j] = alpha * total + (add ? add[i * n + j] : 0);
    }
  }
  return c;
}
