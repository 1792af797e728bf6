/**
 * Linear layers whose weights, and if wanted inputs, are rounded as if they were quantized: in training, and for inputs afterwards.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { transpose } from "../../kernels/pointwise/transpose.ts";
import type { GroupGrid } from "../../kernels/quant/group_grid.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { InputQuantizer, WeightQuantizer } from "./fake_quantizer.ts";
import { type Linear, LinearLayer, QuantizedLinear } from "./linear.ts";
import type { Named } from "./module.ts";
import { TransposedLinear } from "./transposed_linear.ts";

/**
 * A layer in quantization-aware training: products are with the rounded weight, gradients flow into the weight below. An adapter's
 * update is added before rounding, `fakeQuant(W + s · B · A)`, so that what is trained is just what merging and quantizing gives
 * (in the manner of Xu et al., "QA-LoRA", arXiv 2309.14717).
 */
export class FakeQuantLinear extends LinearLayer {
  /** The layer with the weight that is trained. */
  readonly plain: Linear | TransposedLinear;
  /** Rounds the weight. */
  readonly weights: WeightQuantizer;
  /** Rounds inputs, or null. */
  readonly inputs: InputQuantizer | null;

  /** Takes a plain layer with its branch, and brings its weight to 32 bits; `release` gives it back. */
  constructor(
    plain: Linear | TransposedLinear,
    weights: WeightQuantizer,
    inputs: InputQuantizer | null = null,
  ) {
    super(plain.shape, plain.bias);
    plain.widen();
    this.plain = plain;
    this.weights = weights;
    this.inputs = inputs;
    this.branch = plain.branch;
  }

  /** The weight that is trained, as the plain layer stores it. */
  get weight(): Tensor {
    return this.plain.weight;
  }

  /** Bytes of the weight in memory, which is not quantized yet. */
  override get weightBytes(): number {
    return this.plain.weightBytes;
  }

  /** The weight that is rounded, f32 [outFeatures, inFeatures]: with the adapter's update, if there is one. */
  #whole(): Tensor {
    const { plain, branch } = this;
    const own = plain instanceof TransposedLinear ? transpose(plain.weight) : plain.weight;
    if (!branch) return own;
    if (branch.inside) return branch.inside(own);
    throw new TypeError(
      "Cannot apply the layer: the adapter on it cannot be added to a weight before that is rounded; take LoRA",
    );
  }

  /** The rounded weight, f32 [outFeatures, inFeatures], and the grid that it lies on. */
  rounded(): { readonly weight: Tensor; readonly grid: GroupGrid } {
    const whole = this.#whole();
    const grid = this.weights.grid(whole);
    return { weight: this.weights.apply(whole, grid), grid };
  }

  /** `x · Wᵀ (+ add)` with the rounded weight. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return matmul(x, this.rounded().weight, { transposeB: true, add: residual });
  }

  /** Applies the layer; see `LinearLayer`. */
  override forward(x: Tensor, residual?: Tensor): Tensor {
    this.watcher?.(x);
    const y = this.product(this.inputs?.apply(x) ?? x, residual);
    return this.bias ? add(y, this.bias) : y;
  }

  /** The weight that is trained, f32 [outFeatures, inFeatures]; the caller frees it if it is not the layer's own. */
  override dense(): Tensor {
    return this.plain.dense();
  }

  /** The plain layer, with the branch; what rounds is freed. */
  release(): Linear | TransposedLinear {
    this.plain.branch = this.branch;
    this.weights.dispose();
    this.inputs?.dispose();
    return this.plain;
  }

  /** Frees the weight and what rounds, but not the bias. */
  override dispose(): void {
    this.release().dispose();
  }

  /** The plain layer's tensors, and what is learnt of steps and zero points. */
  override *tensors(): Generator<Named<Tensor>> {
    yield* this.plain.tensors();
    yield* this.weights.tensors();
    if (this.inputs) yield* this.inputs.tensors();
  }
}

/**
 * A layer with a quantized weight that rounds its inputs too, when it runs, to whole numbers for which there is no product of
 * integers: where there is, `QuantizedActivationLinear` does it.
 */
export class InputQuantizedLinear extends QuantizedLinear {
  /** Rounds inputs. */
  readonly inputs: InputQuantizer;

  /** Takes weight, bias and quantizer as they are. */
  constructor(weight: QuantizedTensor, bias: Tensor | null, inputs: InputQuantizer) {
    super(weight, bias);
    this.inputs = inputs;
  }

  /** None: the layer is more than a product. */
  protected override get factor(): null {
    return null;
  }

  /** One product with rounded inputs. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return super.product(this.inputs.apply(x), residual);
  }

  /** Frees the weight and what rounds, but not the bias. */
  override dispose(): void {
    super.dispose();
    this.inputs.dispose();
  }
}
