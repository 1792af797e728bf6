/** The specification of adamw.ts: one step, in float64, changing its arrays in place. */
export function adamwRef(
  state: { weights: Float64Array; first: Float64Array; second: Float64Array },
  grad: ArrayLike<number>,
  options: {
    step: number;
    learningRate: number;
    beta1: number;
    beta2: number;
    epsilon: number;
    decay: number;
    clip: number;
  },
): void {
  const { step, learningRate, beta1, beta2, epsilon, decay, clip } = options;
  let squares = 0;
  for (let i = 0; i < grad.length; i++) squares += grad[i] * grad[i];
  const shrink = clip > 0 ? Math.min(1, clip / (Math.sqrt(squares) + 1e-6)) : 1;
  const { weights, first, second } = state;
  for (let i = 0; i < grad.length; i++) {
    const g = grad[i] * shrink;
    weights[i] *= 1 - learningRate * decay;
    first[i] = beta1 * first[i] + (1 - beta1) * g;
    second[i] = beta2 * second[i] + (1 - beta2) * g * g;
    const m = first[i] / (1 - beta1 ** step);
    const v = second[i] / (1 - beta2 ** step);
    weights[i] -= learningRate * m / (Math.sqrt(v) + epsilon);
  }
}
