/**
 * Modules that are trained whole beside an adapter: PEFT's `modules_to_save`.
 *
 * @module
 */
import { keptCopy, type Tensor } from "../../core/tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { QuantizedLinear } from "../nn/linear.ts";
import { joinPath, type Module } from "../nn/module.ts";

/** The names of embeddings and output layers, which are one where a model ties them. */
const TIED: readonly string[] = ["embed_tokens", "wte", "lm_head"];

/** The modules of a model whose path ends so, as PEFT looks for them. */
function modulesOf(model: LanguageModel, entry: string): [string, Module][] {
  return [...model.modules()].filter(([path]) => path !== "" && path.endsWith(entry))
    .map(([path, module]) => [path, module]);
}

function checkTied(model: LanguageModel, entry: string): void {
  const isTied = model.config.tiedEmbeddings &&
    TIED.some((name) => entry === name || entry.endsWith(`.${name}`));
  if (!isTied) return;
  throw new TypeError(
    `Cannot train "${entry}" whole: found the output layer tied to the embedding, wanted a model where each has its own ` +
      "weight; PEFT would part them, which nibble does not. Leave it out of modulesToSave",
  );
}

/**
 * The tensors that `modules_to_save` means, by their names in the model.
 *
 * @throws {RangeError} if an entry means no module
 * @throws {TypeError} if a module cannot be trained
 */
export function tensorsToSave(
  model: LanguageModel,
  entries: readonly string[],
): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const entry of entries) {
    checkTied(model, entry);
    const modules = modulesOf(model, entry);
    const names: string[] = [];
    for (const [root, module] of modules) {
      for (const [path, part] of module.modules(root)) {
        if (part instanceof QuantizedLinear) {
          throw new TypeError(
            `Cannot train "${path}" whole: found its weight in ${part.weight.scheme}, wanted plain weights; load the model ` +
              "without quantize, or leave it out of modulesToSave",
          );
        }
        part.widen();
        for (const [name, own] of part.tensors()) {
          found.set(joinPath(path, name), own);
          names.push(name);
        }
      }
    }
    if (names.length > 0) continue;
    throw new RangeError(
      `Cannot train "${entry}" whole: found no module whose path ends so, wanted such as "embed_tokens", "lm_head" or "norm"`,
    );
  }
  return found;
}

/** Tensors of a model that are trained in place, and can be put back. */
export class SavedModules {
  /** By their names in the model: `lm_head.weight`. */
  readonly tensors: ReadonlyMap<string, Tensor>;
  /** What they held before. */
  readonly #originals = new Map<Tensor, Tensor>();

  /** Keeps copies of the tensors, and makes them trainable. `values` are what they begin with instead of their own. */
  constructor(
    tensors: ReadonlyMap<string, Tensor>,
    values?: (name: string) => Float32Array | undefined,
  ) {
    this.tensors = tensors;
    for (const [name, own] of tensors) {
      this.#originals.set(own, keptCopy(own));
      const given = values?.(name);
      if (given) own.device.write(own, given);
    }
    this.setTrainable(true);
  }

  /** Whether `backward` leaves them gradients. */
  setTrainable(trainable: boolean): void {
    for (const own of this.tensors.values()) own.requiresGrad = trainable;
  }

  /**
   * Ends the training of these tensors: they hold what they held before, or with `keep` what they learned, in memory of their own
   * (training moves all parameters into one buffer). What they lay in is for the caller to free.
   */
  settle(keep: boolean): void {
    this.setTrainable(false);
    for (const [own, original] of this.#originals) {
      if (keep) own.device.copy(own, original);
      own.storage = original.storage;
      own.offset = original.offset;
    }
    this.#originals.clear();
  }
}
