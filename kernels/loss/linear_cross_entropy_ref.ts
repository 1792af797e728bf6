import { crossEntropyRef } from "./cross_entropy_ref.ts";

/** The specification of linear_cross_entropy.ts: all logits, then their cross-entropy. */
export function linearCrossEntropyRef(
  hidden: ArrayLike<number>,
  weight: ArrayLike<number>,
  targets: ArrayLike<number>,
  width: number,
): number {
  const classes = weight.length / width;
  const logits = new Float64Array(targets.length * classes);
  for (let row = 0; row < targets.length; row++) {
    for (let c = 0; c < classes; c++) {
      let sum = 0;
      for (let k = 0; k < width; k++) sum += hidden[row * width + k] * weight[c * width + k];
      logits[row * classes + c] = sum;
    }
  }
  return crossEntropyRef(logits, targets, classes);
}
