/** The specification of updated_norm.ts: the norms of the rows of W + scaling · B · A. */
export function updatedNormRef(
  w: ArrayLike<number>,
  a: ArrayLike<number>,
  b: ArrayLike<number>,
  rows: number,
  columns: number,
  scaling: number,
): Float64Array {
  const rank = a.length / columns;
  const out = new Float64Array(rows);
  for (let i = 0; i < rows; i++) {
    let squares = 0;
    for (let k = 0; k < columns; k++) {
      let update = 0;
      for (let j = 0; j < rank; j++) update += b[i * rank + j] * a[j * columns + k];
      squares += (w[i * columns + k] + scaling * update) ** 2;
    }
    out[i] = Math.sqrt(squares);
  }
  return out;
}
