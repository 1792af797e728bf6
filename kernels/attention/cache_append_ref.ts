/** The specification of cache_append.ts: the cache after the write. */
export function cacheAppendRef(
  cache: ArrayLike<number>,
  x: ArrayLike<number>,
  past: number,
  dims: { batch: number; count: number; slots: number; width: number },
): Float64Array {
  const { batch, count, slots, width } = dims;
  const out = Float64Array.from(cache);
  for (let b = 0; b < batch; b++) {
    for (let t = 0; t < count && past + t < slots; t++) {
      for (let c = 0; c < width; c++) {
        out[(b * slots + past + t) * width + c] = x[(b * count + t) * width + c];
      }
    }
  }
  return out;
}
