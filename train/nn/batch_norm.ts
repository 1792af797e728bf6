/**
 * Batch normalization as a layer.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { batchNorm, type ChannelStatistics } from "../../kernels/norm/batch_norm.ts";
import { Module, type Named } from "./module.ts";

/** What a batch normalization holds. */
export interface BatchNormParts {
  /** f32 [channels]: the gain. */
  readonly weight: Tensor;
  /** f32 [channels]. */
  readonly bias: Tensor;
  /** f32 [channels] each. */
  readonly running: ChannelStatistics;
  /** Added to the variance; 1e-5 by default. */
  readonly epsilon?: number;
  /** How far running statistics go towards a batch's; 0.1 by default. */
  readonly momentum?: number;
}

/** Batch normalization of the last axis, with a gain, a bias, and running statistics for use after training. */
export class BatchNorm extends Module {
  /** f32 [channels]: the gain. */
  readonly weight: Tensor;
  /** f32 [channels]. */
  readonly bias: Tensor;
  /** f32 [channels] each: means over the batches of training. */
  readonly running: ChannelStatistics;
  /** Added to the variance. */
  readonly epsilon: number;
  /** How far running statistics go towards a batch's. */
  readonly momentum: number;

  /** Takes its tensors as they are. */
  constructor({ weight, bias, running, epsilon = 1e-5, momentum = 0.1 }: BatchNormParts) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.running = running;
    this.epsilon = epsilon;
    this.momentum = momentum;
  }

  /**
   * Normalizes.
   *
   * @param x f32 [..., channels]
   * @param training by the batch's statistics, which the running ones then follow, instead of by the running ones
   * @returns f32 of x's shape
   */
  forward(x: Tensor, training = false): Tensor {
    const { weight, bias, running, epsilon, momentum } = this;
    return batchNorm(x, weight, bias, running, { epsilon, momentum, training });
  }

  /** PyTorch's names: `weight`, `bias`, `running_mean`, `running_var`; the last two are not trained. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
    yield ["bias", this.bias];
    yield ["running_mean", this.running.mean];
    yield ["running_var", this.running.variance];
  }
}
