/** The specification of slice.ts, for x seen as [rows, whole]. */
export function sliceRef(
  x: ArrayLike<number>,
  rows: number,
  whole: number,
  start: number,
  length: number,
): Float64Array {
  const out = new Float64Array(rows * length);
  for (let r = 0; r < rows; r++) {
    for (let c = 0; c < length; c++) out[r * length + c] = x[r * whole + start + c];
  }
  return out;
}
