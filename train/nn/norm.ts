/**
 * Normalization layers.
 *
 * @module
 */
import { kept, recomputable } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { layerNorm } from "../../kernels/norm/layer_norm.ts";
import { rmsNorm } from "../../kernels/norm/rms_norm.ts";
import { Module, type Named } from "./module.ts";

/** Root-mean-square normalization with a gain. */
export class RmsNorm extends Module {
  /** f32 [columns]: the gain. */
  readonly weight: Tensor;
  /** Added to the mean square. */
  readonly epsilon: number;

  /** Takes the gain f32 [columns] as it is. */
  constructor(weight: Tensor, epsilon: number) {
    super();
    this.weight = weight;
    this.epsilon = epsilon;
  }

  /** f32 [..., columns] to the same shape. */
  forward(x: Tensor): Tensor {
    return recomputable(() => rmsNorm(kept(x), this.weight, this.epsilon));
  }

  /** `weight`. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
  }
}

/** Layer normalization with a gain and a bias. */
export class LayerNorm extends Module {
  /** f32 [columns]: the gain. */
  readonly weight: Tensor;
  /** f32 [columns]. */
  readonly bias: Tensor;
  /** Added to the variance. */
  readonly epsilon: number;

  /** Takes gain and bias f32 [columns] as they are. */
  constructor(weight: Tensor, bias: Tensor, epsilon: number) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.epsilon = epsilon;
  }

  /** f32 [..., columns] to the same shape. */
  forward(x: Tensor): Tensor {
    return recomputable(() => layerNorm(kept(x), this.weight, this.bias, this.epsilon));
  }

  /** `weight` and `bias`. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
    yield ["bias", this.bias];
  }
}
