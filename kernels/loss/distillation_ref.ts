/**
 * The specification of distillation.ts: the mean over rows whose target is not negative.
 *
 * @module
 */

/** Log-probabilities of a row of logits. */
function logSoftmax(row: ArrayLike<number>): number[] {
  const numbers = Array.from(row);
  const largest = numbers.reduce((a, b) => Math.max(a, b), -Infinity);
  const sum = numbers.reduce((a, b) => a + Math.exp(b - largest), 0);
  return numbers.map((x) => x - largest - Math.log(sum));
}

/** `Σ p · (log p − log q)` with the teacher's p and the student's q. */
export function distillationRef(
  student: ArrayLike<number>,
  teacher: ArrayLike<number>,
  targets: ArrayLike<number>,
  classes: number,
): number {
  const [s, t] = [Float64Array.from(student), Float64Array.from(teacher)];
  let [total, count] = [0, 0];
  for (let row = 0; row < targets.length; row++) {
    if (targets[row] < 0) continue;
    const part = (x: Float64Array) => logSoftmax(x.subarray(row * classes, (row + 1) * classes));
    const [q, p] = [part(s), part(t)];
    for (let i = 0; i < classes; i++) total += Math.exp(p[i]) * (p[i] - q[i]);
    count++;
  }
  return count === 0 ? 0 : total / count;
}
