/**
 * The triangular factor that GPTQ walks along.
 *
 * @module
 */

/** A share of the mean diagonal that is added to it, as in the paper: 0.01. */
export const DAMPING = 0.01;

/**
 * The upper triangular U with `H⁻¹ = UᵀU`, of a damped Hessian. Columns that no input ever used (a diagonal of 0) count as 1.
 *
 * With H's rows and columns in reverse, `H = V·Vᵀ` with V upper triangular is an ordinary Cholesky factorization, and U is the
 * inverse of V: no inverse of H itself is needed. In float64, `⅔ n³` operations.
 *
 * @param hessian [n, n], symmetric
 * @param n its size
 * @param damping see `DAMPING`
 * @returns [n, n], row-major, zeros below the diagonal
 * @throws {RangeError} if the damped Hessian is not positive definite
 */
export function inverseFactor(
  hessian: ArrayLike<number>,
  n: number,
  damping: number = DAMPING,
): Float32Array<ArrayBuffer> {
  const lower = reversedCholesky(hessian, n, damping);
  return invertedReversed(lower, n);
}

/** The lower Cholesky factor of the reversed, damped matrix. */
function reversedCholesky(hessian: ArrayLike<number>, n: number, damping: number): Float64Array {
  const a = new Float64Array(n * n);
  let trace = 0;
  for (let i = 0; i < n; i++) trace += hessian[i * n + i];
  const extra = damping * trace / n;
  for (let i = 0; i < n; i++) {
    const from = (n - 1 - i) * n + n - 1;
    for (let j = 0; j <= i; j++) a[i * n + j] = hessian[from - j];
    if (a[i * n + i] === 0) a[i * n + i] = 1;
    a[i * n + i] += extra;
  }
  for (let i = 0; i < n; i++) {
    const own = a.subarray(i * n, i * n + i + 1);
    for (let j = 0; j <= i; j++) {
      const other = a.subarray(j * n, j * n + j + 1);
      const rest = own[j] - dot(own, other, j);
      if (j < i) own[j] = rest / other[j];
      else if (rest > 0) own[j] = Math.sqrt(rest);
      else {
        throw new RangeError(
          `Cannot quantize by GPTQ: the Hessian of the inputs is not positive definite (pivot ${i} is ${rest}); ` +
            "calibrate on more text, or damp more",
        );
      }
    }
  }
  return a;
}

/** The sum of the first `count` products, in four parts: the processor adds them at the same time. */
function dot(x: Float64Array, y: Float64Array, count: number): number {
  let [a, b, c, d] = [0, 0, 0, 0];
  let k = 0;
  for (; k + 3 < count; k += 4) {
    a += x[k] * y[k];
    b += x[k + 1] * y[k + 1];
    c += x[k + 2] * y[k + 2];
    d += x[k + 3] * y[k + 3];
  }
  for (; k < count; k++) a += x[k] * y[k];
  return a + b + c + d;
}

/** The inverse of a lower triangular matrix, its rows and columns reversed: upper triangular. */
function invertedReversed(lower: Float64Array, n: number): Float32Array<ArrayBuffer> {
  const out = new Float32Array(n * n);
  // Row c of `columns` is column c of the inverse, from its diagonal on.
  const column = new Float64Array(n);
  for (let c = 0; c < n; c++) {
    column[c] = 1 / lower[c * n + c];
    for (let i = c + 1; i < n; i++) {
      const row = lower.subarray(i * n + c, i * n + i);
      column[i] = -dot(row, column.subarray(c, i), i - c) / lower[i * n + i];
    }
    for (let i = c; i < n; i++) out[(n - 1 - i) * n + n - 1 - c] = column[i];
  }
  return out;
}
