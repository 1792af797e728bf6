/** The specification of softmax.ts. */
export function softmaxRef(x: ArrayLike<number>, rows: number, columns: number): Float64Array {
  const out = new Float64Array(rows * columns);
  for (let r = 0; r < rows; r++) {
    let largest = -Infinity;
    for (let c = 0; c < columns; c++) largest = Math.max(largest, x[r * columns + c]);
    let total = 0;
    for (let c = 0; c < columns; c++) total += Math.exp(x[r * columns + c] - largest);
    for (let c = 0; c < columns; c++) {
      out[r * columns + c] = Math.exp(x[r * columns + c] - largest) / total;
    }
  }
  return out;
}
