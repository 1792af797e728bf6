/**
 * What a trainer must know of an adapter.
 *
 * @module
 */

/** Something trainable that was added to a model. */
export interface Adapter {
  /** Whether the model is being trained: dropout works only then. */
  training: boolean;
  /** Called before each training step: new masks for dropout, which follow from the seed and the step. */
  beginStep(seed: number, step: number): void;
}
