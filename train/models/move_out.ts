/**
 * Freeing some weights of a model that was trained.
 *
 * @module
 */
import { keptCopy, type Tensor } from "../../core/tensor.ts";
import type { LanguageModel } from "./language_model.ts";

/**
 * Training puts all parameters side by side in one buffer: to free some of them is to free all. This gives those of a model that
 * stay memory of their own.
 *
 * @param model the model
 * @param freed what is about to be freed, of this model or taken out of it
 */
export function moveOut(model: LanguageModel, freed: ReadonlySet<Tensor>): void {
  const storages = new Set([...freed].map(({ storage }) => storage));
  for (const [, module] of model.modules()) {
    for (const [, own] of module.tensors()) {
      if (freed.has(own) || !storages.has(own.storage)) continue;
      const moved = keptCopy(own);
      own.storage = moved.storage;
      own.offset = 0;
    }
  }
}
