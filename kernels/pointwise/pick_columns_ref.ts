/** The specification of pick_columns.ts, for x seen as [rows, whole]. */
export function pickColumnsRef(
  x: ArrayLike<number>,
  rows: number,
  whole: number,
  columns: readonly number[],
): Float64Array {
  const out = new Float64Array(rows * columns.length);
  for (let r = 0; r < rows; r++) {
    columns.forEach((column, c) => out[r * columns.length + c] = x[r * whole + column]);
  }
  return out;
}
