/**
 * Linear layers whose weight lies the other way round.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { noGrad } from "../../core/autograd.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import { transpose } from "../../kernels/pointwise/transpose.ts";
import { LinearLayer } from "./linear.ts";
import type { Named } from "./module.ts";
import { widened } from "./widen.ts";

/**
 * A linear layer with plain weights that are stored as [inFeatures, outFeatures]: what transformers calls Conv1D, in GPT-2. It is
 * trained and saved as it is stored; `shape` and `dense` are those of any linear layer.
 */
export class TransposedLinear extends LinearLayer {
  #weight: Tensor;

  /** Takes a weight [inFeatures, outFeatures], f32 or f16, and a bias [outFeatures] as they are, without copies. */
  constructor(weight: Tensor, bias: Tensor | null = null) {
    super([weight.shape[1], weight.shape[0]], bias);
    this.#weight = weight;
  }

  /** f32 or f16 [inFeatures, outFeatures]. */
  get weight(): Tensor {
    return this.#weight;
  }

  /** Brings the weight to 32 bits. */
  override widen(): void {
    this.#weight = widened(this.#weight);
  }

  /** Bytes of the weight in memory. */
  override get weightBytes(): number {
    return this.weight.bytes;
  }

  /** One product in 32 bits, with the residual added within it. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return matmul(x, this.weight, { add: residual });
  }

  /** The weight turned over, f32 [outFeatures, inFeatures]: the caller frees it. */
  override dense(): Tensor {
    return noGrad(() => {
      const wide = cast(this.weight, "f32");
      const turned = transpose(wide);
      if (wide !== this.weight) wide.dispose();
      return turned;
    });
  }

  /** Frees the weight, but not the bias. */
  override dispose(): void {
    this.weight.dispose();
  }

  /** `weight`, and `bias` if there is one. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
    if (this.bias) yield ["bias", this.bias];
  }
}
