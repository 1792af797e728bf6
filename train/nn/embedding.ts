/**
 * Token embeddings.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { Module, type Named } from "./module.ts";

/** A vector for each token. */
export class Embedding extends Module {
  /** f32 [tokens, columns]. */
  readonly weight: Tensor;

  /** Takes the weight f32 [tokens, columns] as it is. */
  constructor(weight: Tensor) {
    super();
    this.weight = weight;
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
