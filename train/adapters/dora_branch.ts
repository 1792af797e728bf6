/**
 * DoRA beside one linear layer: Liu et al., "DoRA: Weight-Decomposed Low-Rank Adaptation" (arXiv 2402.09353).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, viewOf } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { rowSquares, updatedNorm } from "../../kernels/norm/updated_norm.ts";
import { add, div, mul, sub } from "../../kernels/pointwise/arithmetic.ts";
import type { Named } from "../nn/module.ts";
import { type BranchDropout, LoraBranch } from "./lora_branch.ts";

/** What a `DoraBranch` is made of. */
export interface DoraParts {
  /** f32 [r, inFeatures]. */
  readonly a: Tensor;
  /** f32 [outFeatures, r]. */
  readonly b: Tensor;
  /** The factor of B · A. */
  readonly scaling: number;
  /** Dropout on the input, or null. */
  readonly dropout: BranchDropout | null;
  /** f32 [outFeatures], or null to begin with the norms of W + scaling · B · A. */
  readonly magnitude: Tensor | null;
}

/**
 * What DoRA makes of one linear layer: `m / ‖V‖ · V · x` with `V = W + scaling · B · A`, ‖V‖ the norms of V's rows, and m trained.
 * As in PEFT, ‖V‖ is computed anew in each pass and held constant in the backward pass, and of a dropped input only what DoRA
 * changes is computed.
 */
export class DoraBranch extends LoraBranch {
  /** DoRA scales the product alone, not the bias. */
  readonly bare = true;
  /** f32 [outFeatures]: m. */
  readonly magnitude: Tensor;
  /** The squared norms of W's rows. */
  readonly #squares: Tensor;

  /** @ignore Use `addLora` with `useDora`, or `loadAdapter`. `weight` is W, f32 [outFeatures, inFeatures]; it is not kept. */
  constructor(weight: Tensor, { a, b, scaling, dropout, magnitude }: DoraParts) {
    super(a, b, scaling, dropout);
    const { device } = a;
    this.#squares = device.keep(rowSquares(weight));
    this.magnitude = magnitude ?? device.keep(device.scope(() => this.#normWith(weight)));
  }

  /** ‖V‖ from A · Wᵀ. */
  #norm(product: Tensor): Tensor {
    const { a, b, scaling } = this;
    return updatedNorm({ squares: this.#squares, product, a, b, scaling });
  }

  #normWith(weight: Tensor): Tensor {
    return noGrad(() => this.#norm(matmul(this.a, weight, { transposeB: true })));
  }

  /** Nothing: what is computed of the input depends on dropout. */
  override begin(_x: Tensor): null {
    return null;
  }

  /** The layer's product with DoRA, without bias. */
  override forward(x: Tensor, base: Tensor, product: (x: Tensor) => Tensor): Tensor {
    const norm = noGrad(() => this.#norm(product(this.a)));
    const factor = div(this.magnitude, norm);
    if (!this.dropout?.lora.training) return mul(this.addUpdate(this.inner(x), base), factor);
    const input = this.dropped(x);
    const own = product(input);
    return add(base, sub(mul(this.addUpdate(this.inner(input), own), factor), own));
  }

  /** `m / ‖V‖ · V`, f32 [outFeatures, inFeatures]. */
  override mergeInto(weight: Tensor): Tensor {
    const { device } = weight;
    return device.scope(() => {
      const factor = div(this.magnitude, this.#normWith(weight));
      return mul(super.mergeInto(weight), viewOf(factor, [factor.size, 1]));
    });
  }

  /** Not for DoRA, whose factor would have to be followed through the rounding: throws a TypeError. */
  override inside(_weight: Tensor): Tensor {
    throw new TypeError(
      "Cannot round weights with the adapter in them: it is DoRA; add LoRA with useDora: false",
    );
  }

  /** Frees the norms. */
  override dispose(): void {
    this.#squares.dispose();
  }

  /** A, B and m by PEFT's names. */
  override *tensors(): Generator<Named<Tensor>> {
    yield* super.tensors();
    yield ["lora_magnitude_vector", this.magnitude];
  }
}
