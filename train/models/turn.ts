/**
 * Matrices turned over on the host, for files that have them the other way round.
 *
 * @module
 */

/** The transpose of a row-major matrix. */
export function turned(
  numbers: Float32Array,
  rows: number,
  columns: number,
): Float32Array<ArrayBuffer> {
  const out = new Float32Array(numbers.length);
  for (let row = 0; row < rows; row++) {
    for (let column = 0; column < columns; column++) {
      out[column * rows + row] = numbers[row * columns + column];
    }
  }
  return out;
}
