/**
 * The largest singular values on the host, for PiSSA.
 *
 * @module
 */

/** Singular values, the largest first, and their vectors, each in a row. */
export interface Singular {
  /** [r]. */
  readonly values: Float64Array;
  /** [r, rows]. */
  readonly left: Float64Array;
  /** [r, columns]. */
  readonly right: Float64Array;
}

/**
 * The r largest singular values of W, with vectors that are exact to about 10⁻¹⁶ · (σ₁ / σ_r)². They come from the eigenvectors
 * of W · Wᵀ (or Wᵀ · W, whichever is smaller): squaring loses only what belongs to the smallest singular values.
 *
 * @param w [rows, columns]
 * @param r at most the smaller of rows and columns
 */
export function largestSingular(
  w: ArrayLike<number>,
  rows: number,
  columns: number,
  r: number,
): Singular {
  if (rows > columns) {
    const turned = new Float64Array(w.length);
    for (let i = 0; i < rows; i++) {
      for (let k = 0; k < columns; k++) turned[k * rows + i] = w[i * columns + k];
    }
    const { values, left, right } = largestSingular(turned, columns, rows, r);
    return { values, left: right, right: left };
  }
  const { vectors } = symmetricEigen(gram(w, rows, columns), rows);
  const values = new Float64Array(r);
  const left = vectors.slice(0, r * rows);
  const right = new Float64Array(r * columns);
  for (let j = 0; j < r; j++) {
    const own = right.subarray(j * columns, (j + 1) * columns);
    for (let i = 0; i < rows; i++) {
      const factor = left[j * rows + i];
      for (let k = 0; k < columns; k++) own[k] += factor * w[i * columns + k];
    }
    values[j] = Math.sqrt(own.reduce((sum, value) => sum + value * value, 0));
    // A singular value of 0 has no vector of its own here; what it is multiplied by is 0 too.
    if (values[j] > 0) { for (let k = 0; k < columns; k++) own[k] /= values[j]; }
  }
  return { values, left, right };
}

/** W · Wᵀ. */
function gram(w: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * rows);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j <= i; j++) {
      let sum = 0;
      for (let k = 0; k < columns; k++) sum += w[i * columns + k] * w[j * columns + k];
      out[i * rows + j] = out[j * rows + i] = sum;
    }
  }
  return out;
}

/**
 * The eigenvalues of a symmetric matrix, the largest first, and its eigenvectors, each in a row: Householder's reduction to a
 * tridiagonal matrix, then implicit QL steps (Bowdler, Martin, Reinsch and Wilkinson, Numerische Mathematik 11, 1968).
 *
 * @param m [n, n]
 */
export function symmetricEigen(
  m: Float64Array,
  n: number,
): { values: Float64Array; vectors: Float64Array } {
  const { diagonal, beside, basis } = tridiagonal(m, n);
  for (let low = 0; low < n; low++) {
    for (let round = 0;; round++) {
      const high = endOfBlock(diagonal, beside, low);
      if (high === low) break;
      if (round === 60) {
        throw new RangeError("Cannot decompose the weight: it holds NaN or infinity");
      }
      qlStep(diagonal, beside, basis, n, low, high);
    }
  }
  const order = Array.from(diagonal.keys()).sort((i, j) => diagonal[j] - diagonal[i]);
  const vectors = new Float64Array(n * n);
  order.forEach((from, to) => vectors.set(basis.subarray(from * n, (from + 1) * n), to * n));
  return { values: Float64Array.from(order, (i) => diagonal[i]), vectors };
}

/** Where the block of the tridiagonal matrix that begins at `low` ends: there what stands beside the diagonal is as good as 0. */
function endOfBlock(diagonal: Float64Array, beside: Float64Array, low: number): number {
  let high = low;
  while (high < diagonal.length - 1) {
    const near = Math.abs(diagonal[high]) + Math.abs(diagonal[high + 1]);
    if (Math.abs(beside[high]) <= Number.EPSILON * near) break;
    high++;
  }
  return high;
}

/** One implicit QL step with Wilkinson's shift on the block from `low` to `high`; rows of `basis` turn with it. */
function qlStep(
  diagonal: Float64Array,
  beside: Float64Array,
  basis: Float64Array,
  n: number,
  low: number,
  high: number,
): void {
  const half = (diagonal[low + 1] - diagonal[low]) / (2 * beside[low]);
  const root = Math.hypot(half, 1);
  let g = diagonal[high] - diagonal[low] + beside[low] / (half + (half < 0 ? -root : root));
  let [sine, cosine, shift] = [1, 1, 0];
  for (let i = high - 1; i >= low; i--) {
    const f = sine * beside[i];
    const along = cosine * beside[i];
    const length = Math.hypot(f, g);
    beside[i + 1] = length;
    if (length === 0) {
      // The block falls apart here.
      diagonal[i + 1] -= shift;
      beside[high] = 0;
      return;
    }
    sine = f / length;
    cosine = g / length;
    const above = diagonal[i + 1] - shift;
    const turn = (diagonal[i] - above) * sine + 2 * cosine * along;
    shift = sine * turn;
    diagonal[i + 1] = above + shift;
    g = cosine * turn - along;
    for (let k = 0; k < n; k++) {
      const upper = basis[(i + 1) * n + k];
      const lower = basis[i * n + k];
      basis[(i + 1) * n + k] = sine * lower + cosine * upper;
      basis[i * n + k] = cosine * lower - sine * upper;
    }
  }
  diagonal[low] -= shift;
  beside[low] = g;
  beside[high] = 0;
}

/** A symmetric matrix as a tridiagonal one: `basis` has in its rows the vectors in which it is that. */
function tridiagonal(
  m: Float64Array,
  n: number,
): { diagonal: Float64Array; beside: Float64Array; basis: Float64Array } {
  const work = m.slice();
  const basis = new Float64Array(n * n);
  for (let i = 0; i < n; i++) basis[i * n + i] = 1;
  const beside = new Float64Array(n);
  const reflectors: Float64Array[] = [];
  for (let j = 0; j < n - 2; j++) {
    const v = new Float64Array(n);
    let squares = 0;
    for (let i = j + 1; i < n; i++) squares += (v[i] = work[i * n + j]) ** 2;
    const norm = v[j + 1] >= 0 ? Math.sqrt(squares) : -Math.sqrt(squares);
    v[j + 1] += norm;
    const length = Math.sqrt(2 * norm * v[j + 1]);
    if (length > 0) { for (let i = j + 1; i < n; i++) v[i] /= length; }
    reflectors.push(v);
    if (length > 0) reflectBothSides(work, v, n, j);
  }
  for (let j = reflectors.length - 1; j >= 0; j--) reflectRows(basis, reflectors[j], n, j);
  for (let i = 0; i < n - 1; i++) beside[i] = work[(i + 1) * n + i];
  return { diagonal: Float64Array.from({ length: n }, (_, i) => work[i * n + i]), beside, basis };
}

/** m ← (1 − 2vvᵀ) · m · (1 − 2vvᵀ), for a unit v that is 0 up to index `from`. */
function reflectBothSides(m: Float64Array, v: Float64Array, n: number, from: number): void {
  const p = new Float64Array(n);
  let dot = 0;
  for (let i = from; i < n; i++) {
    let sum = 0;
    for (let k = from + 1; k < n; k++) sum += m[i * n + k] * v[k];
    p[i] = sum;
    dot += v[i] * sum;
  }
  for (let i = from; i < n; i++) p[i] -= dot * v[i];
  for (let i = from; i < n; i++) {
    for (let k = from; k < n; k++) m[i * n + k] -= 2 * (v[i] * p[k] + p[i] * v[k]);
  }
}

/** m ← m · (1 − 2vvᵀ), row by row, for a unit v that is 0 up to index `from`. */
function reflectRows(m: Float64Array, v: Float64Array, n: number, from: number): void {
  for (let i = 0; i < n; i++) {
    let dot = 0;
    for (let k = from + 1; k < n; k++) dot += m[i * n + k] * v[k];
    if (dot === 0) continue;
    for (let k = from + 1; k < n; k++) m[i * n + k] -= 2 * dot * v[k];
  }
}
