/** The specification of max.ts: the maximum of x [outer, length, inner] over the middle axis. */
export function maxRef(
  x: ArrayLike<number>,
  outer: number,
  length: number,
  inner: number,
): Float64Array {
  const out = new Float64Array(outer * inner).fill(-Infinity);
  for (let o = 0; o < outer; o++) {
    for (let k = 0; k < length; k++) {
      for (let i = 0; i < inner; i++) {
        out[o * inner + i] = Math.max(out[o * inner + i], x[(o * length + k) * inner + i]);
      }
    }
  }
  return out;
}
