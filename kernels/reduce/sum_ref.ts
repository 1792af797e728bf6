/** The specification of sum.ts: sums x [outer, length, inner] over the middle axis. */
export function sumRef(
  x: ArrayLike<number>,
  outer: number,
  length: number,
  inner: number,
): Float64Array {
  const out = new Float64Array(outer * inner);
  for (let o = 0; o < outer; o++) {
    for (let k = 0; k < length; k++) {
      for (let i = 0; i < inner; i++) out[o * inner + i] += x[(o * length + k) * inner + i];
    }
  }
  return out;
}
