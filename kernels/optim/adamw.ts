/**
 * One AdamW step over flat buffers.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import code from "./adamw.wgsl" with { type: "text" };

const adamwKernel = kernel("adamw", code);

/** Weights in a block that share a learning rate and a decay. */
export const ADAMW_BLOCK = 64;

/** The buffers of an AdamW step. */
export interface AdamWBuffers {
  /** f32 [size]: the weights, changed in place. */
  readonly weights: Tensor;
  /** f32 [size]: a running mean of the gradient, changed in place. */
  readonly first: Tensor;
  /** f32 [size]: a running mean of the gradient's square, changed in place. */
  readonly second: Tensor;
  /** f32 [size]. */
  readonly grad: Tensor;
  /** f32 [1]: the norm of `grad`. */
  readonly norm: Tensor;
  /** f32 [7]: learning rate, β₁, β₂, ε, 1 − β₁ᵗ, √(1 − β₂ᵗ), and the largest norm (0 for none). Written before each step. */
  readonly hyper: Tensor;
  /** f32 [⌈size / 64⌉, 2]: for each block of 64 weights a factor of the learning rate, and the weight decay. */
  readonly blocks: Tensor;
}

/** Queues a step. Loshchilov and Hutter, "Decoupled weight decay regularization" (arXiv 1711.05101), in PyTorch's order. */
export function adamwStep(buffers: AdamWBuffers): void {
  const { weights, first, second, grad, norm, hyper, blocks } = buffers;
  const { device, size } = weights;
  device.dispatch(
    adamwKernel,
    [weights, first, second, grad, norm, hyper, blocks, uniform(size)],
    gridOf(Math.ceil(size / ADAMW_BLOCK)),
  );
}
