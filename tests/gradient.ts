/** Checks an op against its reference: the result, and every gradient by central differences in float64. */
import { backward } from "../core/autograd.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { assertRelativeError } from "./assert.ts";
import { device, randomNumbers } from "./device.ts";
import { mul } from "../kernels/pointwise/arithmetic.ts";
import { sum } from "../kernels/reduce/sum.ts";

/** A differentiable input. */
export interface OpInput {
  readonly data: Float32Array;
  readonly shape: readonly number[];
}

/** Bounds on errors, relative to the largest value. */
export interface OpBounds {
  readonly forward?: number;
  readonly gradient?: number;
  /** Check only every n-th gradient entry, for large inputs. */
  readonly every?: number;
}

/**
 * Runs `op` on the device and `reference` on the host, and compares results; then compares the gradients of a random weighting of
 * the result with central differences of the reference.
 */
export async function checkOp(
  inputs: readonly OpInput[],
  op: (...inputs: Tensor[]) => Tensor,
  reference: (...inputs: ArrayLike<number>[]) => ArrayLike<number>,
  { forward = 2e-6, gradient = 2e-5, every = 1 }: OpBounds = {},
): Promise<void> {
  const tensors = inputs.map(({ data, shape }) => tensor(device, data, shape));
  for (const t of tensors) t.requiresGrad = true;
  const out = op(...tensors);
  const expected = reference(...inputs.map(({ data }) => data));
  assertRelativeError(await out.read(), expected, forward, "result");

  const weights = randomNumbers(out.size, 99);
  backward(sum(mul(out, tensor(device, weights, out.shape))));
  const values = inputs.map(({ data }) => Float64Array.from(data));
  const weighted = () => {
    const y = reference(...values);
    let total = 0;
    for (let i = 0; i < y.length; i++) total += y[i] * weights[i];
    return total;
  };
  for (let which = 0; which < inputs.length; which++) {
    const actual = await tensors[which].grad!.read();
    const x = values[which];
    const picked: number[] = [];
    const slopes: number[] = [];
    for (let i = 0; i < x.length; i += every) {
      const step = 1e-4 * Math.max(1, Math.abs(x[i]));
      const before = x[i];
      x[i] = before + step;
      const above = weighted();
      x[i] = before - step;
      const below = weighted();
      x[i] = before;
      slopes.push((above - below) / (2 * step));
      picked.push(actual[i]);
    }
    assertRelativeError(picked, slopes, gradient, `gradient of input ${which}`);
  }
}
