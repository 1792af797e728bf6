/**
 * LoRA beside one linear layer.
 *
 * @module
 */
import { kept, recomputable } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { dropout } from "../../kernels/pointwise/dropout.ts";
import type { Branch } from "../nn/linear.ts";
import type { Named } from "../nn/module.ts";

/** Dropout on a branch's input. */
export interface BranchDropout {
  /** The probability of zero. */
  readonly p: number;
  /** u32 [2], seed and step, shared by all branches. */
  readonly state: Tensor;
  /** Which of the branches this is, so that each has masks of its own. */
  readonly site: number;
  /** Whose `training` says if elements are dropped. */
  readonly lora: { readonly training: boolean };
}

/** What LoRA adds to one linear layer: `scaling · B · A · x`. */
export class LoraBranch implements Branch {
  /** f32 [r, inFeatures]. */
  readonly a: Tensor;
  /** f32 [outFeatures, r]. */
  readonly b: Tensor;
  /** The factor of the product: alpha / r, or alpha / √r with rank-stabilized LoRA. */
  readonly scaling: number;
  /** Dropout on the input, or null. */
  protected readonly dropout: BranchDropout | null;

  /** @ignore Use `addLora` or `loadAdapter`. */
  constructor(a: Tensor, b: Tensor, scaling: number, dropout: BranchDropout | null) {
    this.a = a;
    this.b = b;
    this.scaling = scaling;
    this.dropout = dropout;
  }

  /** The rank. */
  get r(): number {
    return this.a.shape[0];
  }

  /** `dropout(x) · Aᵀ`. */
  begin(x: Tensor): Tensor | null {
    return this.inner(this.dropped(x));
  }

  /** `base + scaling · dropout(x) · Aᵀ · Bᵀ`. */
  forward(
    x: Tensor,
    base: Tensor,
    _product?: (x: Tensor) => Tensor,
    begun?: Tensor | null,
  ): Tensor {
    return this.addUpdate(begun ?? this.inner(this.dropped(x)), base);
  }

  /** `x` with elements dropped, in training. */
  protected dropped(x: Tensor): Tensor {
    const own = this.dropout;
    if (!own?.lora.training) return x;
    return recomputable(() => dropout(kept(x), own.p, own.state, own.site));
  }

  /** `x · Aᵀ`. */
  protected inner(x: Tensor): Tensor {
    return matmul(x, this.a, { transposeB: true });
  }

  /** `base + scaling · inner · Bᵀ`. */
  protected addUpdate(inner: Tensor, base: Tensor): Tensor {
    return matmul(inner, this.b, { transposeB: true, alpha: this.scaling, add: base });
  }

  /** `weight + scaling · B · A`, f32 [outFeatures, inFeatures]. */
  mergeInto(weight: Tensor): Tensor {
    return matmul(this.b, this.a, { alpha: this.scaling, add: weight });
  }

  /** `mergeInto`, with gradients. Throws a TypeError if there is dropout, which works on inputs. */
  inside(weight: Tensor): Tensor {
    if (!this.dropout) return this.mergeInto(weight);
    throw new TypeError(
      "Cannot round weights with the adapter in them: it has dropout, which works on inputs; add LoRA with dropout 0",
    );
  }

  /** Frees what the branch holds besides its trained tensors. */
  dispose(): void {}

  /** A and B by PEFT's names. */
  *tensors(): Generator<Named<Tensor>> {
    yield ["lora_A.weight", this.a];
    yield ["lora_B.weight", this.b];
  }
}
