/** The specification of layer_norm.ts. */
export function layerNormRef(
  x: ArrayLike<number>,
  gain: ArrayLike<number>,
  bias: ArrayLike<number>,
  rows: number,
  columns: number,
  epsilon = 1e-5,
): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    let mean = 0;
    for (let c = 0; c < columns; c++) mean += x[r * columns + c] / columns;
    let variance = 0;
    for (let c = 0; c < columns; c++) variance += (x[r * columns + c] - mean) ** 2 / columns;
    const inverse = 1 / Math.sqrt(variance + epsilon);
    for (let c = 0; c < columns; c++) {
      out[r * columns + c] = (x[r * columns + c] - mean) * inverse * gain[c] + bias[c];
    }
  }
  return out;
}
