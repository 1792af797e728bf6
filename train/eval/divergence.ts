/**
 * How far predictions are from others, from their logits.
 *
 * @module
 */

/** The mean of `Σ p · log(p / q)` over rows of logits. */
export function divergenceOf(
  from: Float32Array,
  to: Float32Array,
  vocabulary: number,
): number {
  let sum = 0;
  for (let row = 0; row < from.length; row += vocabulary) {
    const [p, q] = [from.subarray(row, row + vocabulary), to.subarray(row, row + vocabulary)];
    const [a, b] = [logSumExp(p), logSumExp(q)];
    for (let i = 0; i < vocabulary; i++) sum += Math.exp(p[i] - a) * (p[i] - q[i] - (a - b));
  }
  // Rounding may leave a hair less than nothing.
  return Math.max(0, sum * vocabulary / from.length);
}

/** `log Σ exp(x)`. */
export function logSumExp(x: Float32Array): number {
  let most = -Infinity;
  for (const value of x) most = Math.max(most, value);
  let sum = 0;
  for (const value of x) sum += Math.exp(value - most);
  return most + Math.log(sum);
}
