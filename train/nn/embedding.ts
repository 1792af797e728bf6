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

  constructor(weight: Tensor) {
    super();
    this.weight = weight;
  }

  /** i32 of any shape to f32 [..., columns]. */
  forward(ids: Tensor): Tensor {
    return embedding(this.weight, ids);
  }

  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
  }
}
