/**
 * Token embeddings.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { Module, type Named } from "./module.ts";
import { widened } from "./widen.ts";

/** A vector for each token. */
export class Embedding extends Module {
  #weight: Tensor;

  /** Takes the weight [tokens, columns], f32 or if it is frozen f16, as it is. */
  constructor(weight: Tensor) {
    super();
    this.#weight = weight;
  }

  /** f32 or f16 [tokens, columns]. */
  get weight(): Tensor {
    return this.#weight;
  }

  /** Brings the weight to 32 bits. */
  override widen(): void {
    this.#weight = widened(this.#weight);
  }

  /** i32 of any shape to f32 [..., columns]. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }

  /** `weight`. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
  }
}
