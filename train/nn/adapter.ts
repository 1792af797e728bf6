/**
 * What a trainer must know of an adapter.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import type { Named } from "./module.ts";

/** Something trainable that was added to a model. */
export interface Adapter {
  /** Whether the model is being trained: dropout works only then. */
  training: boolean;
  /** Called before each training step: new masks for dropout, which follow from the seed and the step. */
  beginStep(seed: number, step: number): void;
  /** What must be equal between a run and the checkpoint that it goes on from, beside the options of the trainer. */
  readonly identity?: string;
  /** f32 tensors that change from step to step without being trained, by name: checkpoints of a run hold them too. */
  state?(): Iterable<Named<Tensor>>;
}
