/**
 * Linear layers, dense and quantized, with a place for an adapter's branch.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import type { Weight } from "../../kernels/linear/multiply_many.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import { Module, type Named } from "./module.ts";
import { widened } from "./widen.ts";

/** What an adapter adds to a linear layer. */
export interface Branch {
  /** Whether `base` is to be the bare product `x · Wᵀ`: bias and residual are then added behind the branch. */
  readonly bare?: boolean;
  /**
   * What the branch computes from the layer's input alone. It comes before the layer's own product, which is independent of it: so
   * both can run at the same time, in the backward pass too.
   */
  begin?(x: Tensor): Tensor | null;
  /** The layer's output with the branch, from its input, its own output, its way of multiplying by Wᵀ, and what `begin` gave. */
  forward(
    x: Tensor,
    base: Tensor,
    product: (x: Tensor) => Tensor,
    begun?: Tensor | null,
  ): Tensor;
  /**
   * The weight f32 [outFeatures, inFeatures] with the branch in it, with gradients: for layers that round the sum. Throws a TypeError
   * if the branch is more than something added to the weight.
   */
  inside?(weight: Tensor): Tensor;
  /** The branch's tensors, by the name that PEFT gives them behind the layer's path: `lora_A.weight`. */
  tensors(): Iterable<Named<Tensor>>;
}

/** `x · Wᵀ + b`, and what a branch adds. */
export abstract class LinearLayer extends Module {
  /** [outFeatures, inFeatures]. */
  readonly shape: readonly [outFeatures: number, inFeatures: number];
  /** f32 [outFeatures], or null. */
  readonly bias: Tensor | null;
  /** The adapter on this layer, if there is one. */
  branch: Branch | null = null;
  /** Told each input of the layer: calibration looks at them. */
  watcher: ((x: Tensor) => void) | null = null;

  /** Keeps what dense and quantized layers share. */
  constructor(shape: readonly [number, number], bias: Tensor | null) {
    super();
    this.shape = shape;
    this.bias = bias;
  }

  /** Bytes of the weight in memory. */
  abstract get weightBytes(): number;

  /** The weight as a factor that lies as [outFeatures, inFeatures], or null where it lies otherwise. */
  protected get factor(): Weight | null {
    return null;
  }

  /** The weight, if the layer is a product with it and a bias and nothing else: no branch, and nobody watches. */
  get bareFactor(): Weight | null {
    return this.branch || this.watcher ? null : this.factor;
  }

  /** `x · Wᵀ (+ add)`. */
  protected abstract product(x: Tensor, add?: Tensor): Tensor;

  /** The weight as f32 [outFeatures, inFeatures]; the caller frees it if it is not the layer's own. */
  abstract dense(): Tensor;

  /** Frees the weight. */
  abstract dispose(): void;

  /**
   * Applies the layer.
   *
   * @param x f32 [..., inFeatures]
   * @param residual f32 [..., outFeatures], added to the result within the product
   * @returns f32 [..., outFeatures]
   */
  forward(x: Tensor, residual?: Tensor): Tensor {
    this.watcher?.(x);
    const { bias, branch } = this;
    const product = (input: Tensor) => this.product(input);
    const begun = branch?.begin?.(x);
    if (branch?.bare) {
      let y = branch.forward(x, product(x), product, begun);
      if (bias) y = add(y, bias);
      return residual ? add(y, residual) : y;
    }
    let y = this.product(x, residual);
    if (bias) y = add(y, bias);
    return branch ? branch.forward(x, y, product, begun) : y;
  }
}

/** A linear layer with plain weights: f32, or f16 if they are frozen. */
export class Linear extends LinearLayer {
  #weight: Tensor;

  /** Takes a weight [outFeatures, inFeatures], f32 or f16, and a bias [outFeatures] as they are, without copies. */
  constructor(weight: Tensor, bias: Tensor | null = null) {
    super([weight.shape[0], weight.shape[1]], bias);
    this.#weight = weight;
  }

  /** f32 or f16 [outFeatures, inFeatures]. */
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

  /** The weight itself. */
  protected override get factor(): Weight {
    return this.weight;
  }

  /** One product in 32 bits, with the residual added within it. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return matmul(x, this.weight, { transposeB: true, add: residual });
  }

  /** The layer's own weight, not to be freed; or if it is in 16 bits a copy in 32, which the caller frees. */
  override dense(): Tensor {
    return noGrad(() => cast(this.weight, "f32"));
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

/** The weight of a layer that is a product with it and nothing else, or `null`: no bias, no branch, not quantized. */
export function plainWeight(layer: LinearLayer): Tensor | null {
  return layer instanceof Linear && !layer.bias && !layer.branch ? layer.weight : null;
}

/** A linear layer whose weight is quantized and frozen; gradients flow through it, not into it. */
export class QuantizedLinear extends LinearLayer {
  /** The weight, in any scheme. */
  readonly weight: QuantizedTensor;

  /** Takes a quantized weight and a bias [outFeatures] as they are, without copies. */
  constructor(weight: QuantizedTensor, bias: Tensor | null = null) {
    super(weight.shape, bias);
    this.weight = weight;
  }

  /** Bytes of the weight in memory. */
  override get weightBytes(): number {
    return this.weight.bytes;
  }

  /** The weight itself; null where a layer does more to its input than to multiply it. */
  protected override get factor(): Weight | null {
    return this.weight;
  }

  /** One product that decodes the weight as it goes, with the residual added within it. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return this.weight.multiply(x, { add: residual });
  }

  /** The decoded weight, f32 [outFeatures, inFeatures]: the caller frees it. */
  override dense(): Tensor {
    return this.weight.dequantize();
  }

  /** Frees the weight, but not the bias. */
  override dispose(): void {
    this.weight.dispose();
  }

  /** `bias` if there is one; the quantized weight is no tensor. */
  override *tensors(): Generator<Named<Tensor>> {
    if (this.bias) yield ["bias", this.bias];
  }
}
