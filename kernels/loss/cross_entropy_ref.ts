/** The specification of cross_entropy.ts: the mean over rows whose target is not negative. */
export function crossEntropyRef(
  logits: ArrayLike<number>,
  targets: ArrayLike<number>,
  classes: number,
): number {
  let total = 0;
  let count = 0;
  for (let row = 0; row < targets.length; row++) {
    if (targets[row] < 0) continue;
    let largest = -Infinity;
    for (let c = 0; c < classes; c++) largest = Math.max(largest, logits[row * classes + c]);
    let sum = 0;
    for (let c = 0; c < classes; c++) sum += Math.exp(logits[row * classes + c] - largest);
    total += largest + Math.log(sum) - logits[row * classes + targets[row]];
    count++;
  }
  return count === 0 ? 0 : total / count;
}
