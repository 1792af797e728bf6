/**
 * QR decomposition on the host, for OLoRA.
 *
 * @module
 */

/**
 * The first r columns of Q and the first r rows of R in `W = Q · R`, by Householder reflections with LAPACK's signs, so that
 * both are those of `torch.linalg.qr`. Their product is the part of W that lies in the span of its first r columns.
 * Büyükakyüz, "OLoRA: Orthonormal Low-Rank Adaptation" (arXiv 2406.01775).
 *
 * @param w [rows, columns]
 * @param r at most the smaller of rows and columns
 * @returns b: Q's columns, [rows, r]; a: R's rows, [r, columns]
 */
export function leadingColumns(
  w: ArrayLike<number>,
  rows: number,
  columns: number,
  r: number,
): { a: Float64Array; b: Float64Array } {
  const rest = Float64Array.from(w);
  const b = new Float64Array(rows * r);
  for (let j = 0; j < r; j++) b[j * r + j] = 1;
  const reflectors: { from: number; vector: Float64Array; factor: number }[] = [];
  for (let j = 0; j < r; j++) {
    const vector = new Float64Array(rows);
    let norm = 0;
    for (let i = j; i < rows; i++) {
      vector[i] = rest[i * columns + j];
      norm = Math.hypot(norm, vector[i]);
    }
    let below = 0;
    for (let i = j + 1; i < rows; i++) below = Math.max(below, Math.abs(vector[i]));
    // LAPACK reflects nothing where the column has nothing below its diagonal.
    if (below === 0) continue;
    const diagonal = vector[j] >= 0 ? -norm : norm;
    vector[j] -= diagonal;
    // ‖v‖² = 2 · norm · (norm + |x_j|), with v_j = x_j − diagonal.
    const reflector = { from: j, vector, factor: 1 / (norm * Math.abs(vector[j])) };
    reflect(reflector, rest, columns, j);
    reflectors.push(reflector);
  }
  // Q is the product of the reflections: applied to unit columns, the last one first.
  for (const reflector of reflectors.reverse()) reflect(reflector, b, r, 0);
  const a = new Float64Array(r * columns);
  for (let j = 0; j < r; j++) {
    for (let k = j; k < columns; k++) a[j * columns + k] = rest[j * columns + k];
  }
  return { a, b };
}

/** m ← m − factor · v · (vᵀ · m), for the columns of m [rows, columns] from `first` on. */
function reflect(
  { from, vector, factor }: { from: number; vector: Float64Array; factor: number },
  m: Float64Array,
  columns: number,
  first: number,
): void {
  const dots = new Float64Array(columns);
  for (let i = from; i < vector.length; i++) {
    for (let k = first; k < columns; k++) dots[k] += vector[i] * m[i * columns + k];
  }
  for (let i = from; i < vector.length; i++) {
    const own = factor * vector[i];
    for (let k = first; k < columns; k++) m[i * columns + k] -= own * dots[k];
  }
}
