/**
 * The specification of rotate.ts, in float64.
 *
 * @module
 */

/** `((x ⊙ before) · H) ⊙ after` with `H[i, j] = (−1)^(ones that i and j share in binary) / √size`, in blocks of `size` numbers. */
export function rotateRef(
  x: ArrayLike<number>,
  before: ArrayLike<number>,
  after: ArrayLike<number>,
  size: number,
): Float64Array {
  const columns = before.length;
  const odd = (bits: number): number => bits === 0 ? 0 : (bits & 1) ^ odd(bits >> 1);
  return Float64Array.from(x, (_, place) => {
    const j = place % size;
    let sum = 0;
    for (let i = 0; i < size; i++) {
      const from = place - j + i;
      const term = x[from] * before[from % columns];
      sum += odd(i & j) ? -term : term;
    }
    return sum / Math.sqrt(size) * after[place % columns];
  });
}
