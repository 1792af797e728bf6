/** The specification of rms_norm.ts. */
export function rmsNormRef(
  x: ArrayLike<number>,
  gain: ArrayLike<number>,
  rows: number,
  columns: number,
  epsilon = 1e-5,
): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    let squares = 0;
    for (let c = 0; c < columns; c++) squares += x[r * columns + c] ** 2;
    const inverse = 1 / Math.sqrt(squares / columns + epsilon);
    for (let c = 0; c < columns; c++) {
      out[r * columns + c] = x[r * columns + c] * inverse * gain[c];
    }
  }
  return out;
}
