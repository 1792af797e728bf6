/** The specification of embedding.ts. */
export function embeddingRef(
  table: ArrayLike<number>,
  ids: ArrayLike<number>,
  columns: number,
): Float64Array {
  const out = new Float64Array(ids.length * columns);
  for (let i = 0; i < ids.length; i++) {
    for (let c = 0; c < columns; c++) out[i * columns + c] = table[ids[i] * columns + c];
  }
  return out;
}
