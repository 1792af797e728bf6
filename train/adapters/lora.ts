/**
 * LoRA: low-rank updates beside a frozen model. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"
 * (arXiv 2106.09685); with the scaling of Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"
 * (arXiv 2312.03732).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import type { Adapter } from "../nn/adapter.ts";
import { Linear, type LinearLayer } from "../nn/linear.ts";
import type { Named } from "../nn/module.ts";
import { DoraBranch } from "./dora_branch.ts";
import { LoraBranch } from "./lora_branch.ts";
import {
  type CompleteLora,
  completeLora,
  type DecomposedLoraOptions,
  type LoraOptions,
} from "./lora_options.ts";
import { SavedModules, tensorsToSave } from "./saved_modules.ts";
import {
  decompose,
  drawA,
  type LoraStart,
  peftName,
  rankAndScaling,
  type TakenPart,
} from "./start.ts";
import { checkPatterns, matchTargets } from "./targets.ts";

/** Every LoRA on a model, merged ones included. */
export function lorasOn(model: LanguageModel): readonly Lora[] {
  return [...model.adapters].filter((adapter) => adapter instanceof Lora);
}

/** Throws unless an adapter can be added to these layers. */
export function checkPlaces(model: LanguageModel, paths: readonly string[]): void {
  const layers = new Map(model.linearLayers());
  if (lorasOn(model).some((other) => other.merged)) {
    throw new TypeError(
      "Cannot add LoRA: found another one merged into the model; call its unmerge(), or mergeAdapter() to keep it for good",
    );
  }
  const taken = paths.find((path) => layers.get(path)!.branch);
  if (taken === undefined) return;
  throw new TypeError(
    `Cannot add LoRA to "${taken}": found an adapter on it; call remove() on that one, or mergeAdapter()`,
  );
}

/** LoRA on a model: a branch on each of the chosen layers. `addLora` and `loadAdapter` make one. */
export class Lora implements Adapter {
  /** The model that it is on. */
  readonly model: LanguageModel;
  /** How it was made. */
  readonly options: CompleteLora;
  /** Its branches, by the path of the layer. */
  readonly branches: ReadonlyMap<string, LoraBranch>;
  /** @ignore By path, what was taken out of the layers' weights for A and B to begin with: see `decompose`. */
  readonly parts: ReadonlyMap<string, TakenPart>;
  /** u32 [2], seed and step of the dropout masks. Null where dropout is 0. */
  readonly dropoutState: Tensor | null;
  /** Whether dropout is on. Whoever trains sets it, and unsets it. */
  training = false;
  #state: "on" | "merged" | "gone" = "on";
  readonly #saved: SavedModules;
  /** Layers whose weight was taken apart: see `decompose`. */
  readonly #whole = new Map<string, LinearLayer>();
  readonly #originals = new Map<string, LinearLayer>();
  readonly #frozen: Tensor[] = [];

  /** @ignore Use `addLora` or `loadAdapter`. */
  constructor(
    model: LanguageModel,
    options: CompleteLora,
    paths: readonly string[],
    start: LoraStart = {},
  ) {
    const { device } = model;
    checkPlaces(model, paths);
    const toSave = tensorsToSave(model, options.modulesToSave);
    for (const other of lorasOn(model)) {
      const both = [...other.#saved.tensors.keys()].find((name) => toSave.has(name));
      if (both === undefined) continue;
      throw new TypeError(
        `Cannot train "${both}" whole: found it in another adapter's modulesToSave; call remove() on that one, or mergeAdapter()`,
      );
    }
    const { dropout: p, seed } = options;
    this.model = model;
    this.options = options;
    this.dropoutState = p > 0 ? device.keep(tensor(device, Uint32Array.of(seed >>> 0, 0))) : null;
    this.parts = start.parts ?? new Map();
    for (const [path, { rest }] of this.parts) {
      const layer = new Map(model.linearLayers()).get(path)!;
      model.replaceLinear(path, new Linear(rest, layer.bias));
      this.#whole.set(path, layer);
    }
    const layers = new Map(model.linearLayers());
    const branches = new Map<string, LoraBranch>();
    for (const [site, path] of paths.entries()) {
      const layer = layers.get(path)!;
      const branch = this.#branchOf(path, site, layer, start.weights);
      for (const [, own] of branch.tensors()) own.requiresGrad = true;
      layer.branch = branch;
      branches.set(path, branch);
    }
    this.branches = branches;
    this.#freezeModel();
    this.#saved = new SavedModules(toSave, (name) => start.weights?.get(peftName("", name)));
    model.adapters.add(this);
  }

  #branchOf(
    path: string,
    site: number,
    layer: LinearLayer,
    weights: LoraStart["weights"],
  ): LoraBranch {
    const { device } = this.model;
    const { dropout: p, useDora } = this.options;
    const [outFeatures, inFeatures] = layer.shape;
    const { r, scaling } = rankAndScaling(path, this.options);
    const given = (name: string) => weights?.get(peftName(path, name));
    const part = this.parts.get(path);
    const numbers = given("lora_A.weight") ?? part?.a ?? drawA(this.options, site, r, inFeatures);
    const a = device.keep(tensor(device, numbers, [r, inFeatures]));
    const second = given("lora_B.weight") ?? part?.b;
    const shape = [outFeatures, r];
    const b = device.keep(second ? tensor(device, second, shape) : zeros(device, shape));
    const state = this.dropoutState;
    const dropout = state && { p, state, site, lora: this };
    if (!useDora) return new LoraBranch(a, b, scaling, dropout);
    const third = given("lora_magnitude_vector");
    const magnitude = third ? device.keep(tensor(device, third)) : null;
    return withDense(layer, (w) => new DoraBranch(w, { a, b, scaling, dropout, magnitude }));
  }

  /** The model's own weights are frozen, but for modules to save: an adapter's file could not hold what they learn. */
  #freezeModel(): void {
    const kept = new Set(
      lorasOn(this.model).flatMap((other) => [...other.#saved.tensors.values()]),
    );
    for (const [, module] of this.model.modules()) {
      for (const [, own] of module.tensors()) {
        if (!own.requiresGrad || kept.has(own)) continue;
        own.requiresGrad = false;
        this.#frozen.push(own);
      }
    }
  }

  /** New masks for dropout: the trainer calls this before each step. */
  beginStep(seed: number, step: number): void {
    if (!this.dropoutState) return;
    this.model.device.write(this.dropoutState, Uint32Array.of(seed >>> 0, step));
  }

  /** What a checkpoint must have in common with it beside the shapes of A and B: how much they count, and dropout. */
  get identity(): string {
    const { alpha, dropout, useRslora, alphaPattern } = this.options;
    const own = Object.keys(alphaPattern).length > 0 ? ` and ${JSON.stringify(alphaPattern)}` : "";
    return `${useRslora ? "rsLoRA" : "LoRA"} of alpha ${alpha}${own}, dropout ${dropout}`;
  }

  /** Whether it is merged into the model and can be taken out again. */
  get merged(): boolean {
    return this.#state === "merged";
  }

  /** How many numbers are trained: A, B and magnitudes in all layers, and whole modules. */
  get count(): number {
    let count = 0;
    for (const [, own] of this.parameters()) count += own.size;
    return count;
  }

  /** Bytes of these numbers in memory. */
  get bytes(): number {
    return 4 * this.count;
  }

  /** What is trained, by the names that PEFT saves it under: A and B of every layer, magnitudes, and whole modules. */
  *parameters(): Generator<Named<Tensor>> {
    for (const [path, branch] of this.branches) {
      for (const [name, own] of branch.tensors()) yield [peftName(path, name), own];
    }
    for (const [name, own] of this.#saved.tensors) yield [peftName("", name), own];
  }

  /**
   * Puts a dense layer with the weight `W + scaling · B · A` (scaled to DoRA's magnitudes, if it is DoRA) in the place of each
   * layer; quantized ones are decoded for it, in 32 bits. The originals are kept for `unmerge`. Steps that `capture` recorded before must be recorded anew.
   *
   * @throws {TypeError} if it is merged already, or was removed
   */
  merge(): void {
    if (this.#state !== "on") {
      throw new TypeError(
        this.#state === "merged"
          ? "Cannot merge the adapter: found it merged already; unmerge() takes it out"
          : "Cannot merge the adapter: found it removed, or merged for good; add or load it anew",
      );
    }
    const layers = new Map(this.model.linearLayers());
    for (const [path, branch] of this.branches) {
      if (layers.get(path)?.branch === branch) continue;
      throw new TypeError(
        `Cannot merge the adapter: found another layer at "${path}" than the one it was added to; merge before replacing layers`,
      );
    }
    for (const [path, branch] of this.branches) {
      const layer = layers.get(path)!;
      const merged = withDense(layer, (weight) => noGrad(() => branch.mergeInto(weight)));
      this.model.replaceLinear(path, new Linear(this.model.device.keep(merged), layer.bias));
      this.#originals.set(path, layer);
    }
    this.#saved.setTrainable(false);
    this.#state = "merged";
  }

  /**
   * Undoes `merge`: the original layers are back, the same to the last bit, with the branches on them.
   *
   * @throws {TypeError} if it is not merged
   */
  unmerge(): void {
    if (this.#state !== "merged") {
      throw new TypeError("Cannot unmerge the adapter: found it not merged; call merge() first");
    }
    const layers = new Map(this.model.linearLayers());
    for (const [path, layer] of this.#originals) {
      layers.get(path)!.dispose();
      this.model.replaceLinear(path, layer);
    }
    this.#originals.clear();
    this.#saved.setTrainable(true);
    this.#state = "on";
  }

  /** Takes the branches off the model, which is then as it was before, and frees them. A second call does nothing. */
  remove(): void {
    if (this.#state === "gone") return;
    if (this.#state === "merged") this.unmerge();
    const layers = new Map(this.model.linearLayers());
    for (const [path, branch] of this.branches) {
      const layer = layers.get(path);
      if (layer?.branch === branch) layer.branch = null;
    }
    for (const [path, layer] of this.#whole) {
      layers.get(path)!.dispose();
      this.model.replaceLinear(path, layer);
    }
    this.#free(false);
    for (const own of this.#frozen) own.requiresGrad = true;
  }

  /** @ignore Frees what `merge` keeps, and the branches; see `mergeAdapter`. */
  mergeForGood(): void {
    for (const layer of this.#originals.values()) layer.dispose();
    for (const layer of this.#whole.values()) layer.dispose();
    this.#originals.clear();
    this.#free(true);
  }

  #free(keep: boolean): void {
    const used = new Set([...this.parameters()].map(([, own]) => own.storage));
    this.#saved.settle(keep);
    // Training moves all parameters into one buffer: another adapter's may lie beside these, and must not go with them.
    for (const other of lorasOn(this.model)) {
      if (other === this) continue;
      for (const [, own] of other.parameters()) used.delete(own.storage);
    }
    for (const storage of used) this.model.device.free(storage);
    for (const branch of this.branches.values()) branch.dispose();
    this.dropoutState?.dispose();
    this.#whole.clear();
    this.model.adapters.delete(this);
    this.#state = "gone";
  }
}

/** Lets `body` use a layer's weight as f32, which is freed if it was decoded for that. */
function withDense<T>(layer: LinearLayer, body: (weight: Tensor) => T): T {
  const weight = layer.dense();
  const isOwn = [...layer.tensors()].some(([, own]) => own === weight);
  try {
    return body(weight);
  } finally {
    if (!isOwn) weight.dispose();
  }
}

/**
 * Adds LoRA to a model and freezes the model's own weights. B begins at zero, so the model computes at first what it did before.
 *
 * With `init: "pissa"` or "olora" the adapter begins with a part of the weights: for PiSSA that of the r largest singular values
 * (Meng et al., arXiv 2404.02948), for OLoRA that in the span of the first r columns (Büyükakyüz, arXiv 2406.01775). The layers
 * keep the rest, so that the sum is what it was, and the originals wait for `remove`. This runs on the host in 64 bits, so it
 * returns a promise: of a weight of 576 × 1536, PiSSA takes one to two seconds and grows with the cube of the smaller side, OLoRA
 * takes some hundredths.
 *
 * @param model the model, in 32 bits or quantized
 * @param options rank, scaling, dropout, which layers
 * @throws {RangeError} if an option makes no sense, or a target module or a pattern means none of the layers
 * @throws {TypeError} if a layer has an adapter already, or is quantized and should be decomposed
 *
 * @example
 * ```ts
 * import { addLora, openDevice, randomModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const lora = addLora(model, { r: 4, alpha: 8, targetModules: ["q_proj", "v_proj"] });
 * console.log(lora.count, model.count()); // 2048 { total: 125248, trainable: 2048 }
 * lora.remove();
 * const dora = await addLora(model, { r: 4, useDora: true, init: "pissa", modulesToSave: ["norm"] });
 * console.log(dora.count); // 10176
 * ```
 */
export function addLora(model: LanguageModel, options: DecomposedLoraOptions): Promise<Lora>;
/** Adds LoRA that leaves the weights alone. */
export function addLora(model: LanguageModel, options?: LoraOptions): Lora;
export function addLora(
  model: LanguageModel,
  options: LoraOptions | DecomposedLoraOptions = {},
): Lora | Promise<Lora> {
  const chosen = completeLora(options);
  const all = [...model.linearLayers()].map(([path]) => path);
  const paths = matchTargets(all, chosen.targetModules, chosen);
  checkPatterns(paths, chosen.rankPattern, "rankPattern");
  checkPatterns(paths, chosen.alphaPattern, "alphaPattern");
  if (chosen.init === true || chosen.init === "gaussian") return new Lora(model, chosen, paths);
  return addDecomposed(model, chosen, paths);
}

/** Adds LoRA whose layers keep only a part of their weights; `weights`, if given, are what A and B are instead of the other part. */
export async function addDecomposed(
  model: LanguageModel,
  options: CompleteLora,
  paths: readonly string[],
  weights?: ReadonlyMap<string, Float32Array>,
): Promise<Lora> {
  checkPlaces(model, paths);
  tensorsToSave(model, options.modulesToSave);
  const parts = await decompose(model, options, paths);
  return new Lora(model, options, paths, { parts, weights });
}

/**
 * Merges every LoRA on a model for good: `W + scaling · B · A` (scaled to DoRA's magnitudes) takes the place of each weight, in 32 bits even where the weight was
 * quantized, and originals and branches are freed. `saveModel` then writes a model that needs no adapter.
 *
 * @param model the model
 * @throws {TypeError} if the model has no LoRA
 *
 * @example
 * ```ts
 * import { addLora, mergeAdapter, openDevice, randomModel, saveModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * addLora(model, { r: 4 });
 * mergeAdapter(model);
 * await saveModel(model, `${await Deno.makeTempDir()}/merged`);
 * ```
 */
export function mergeAdapter(model: LanguageModel): void {
  const loras = lorasOn(model);
  if (loras.length === 0) {
    throw new TypeError(
      "Cannot merge the adapter: found none on the model; add one with addLora, or load one with loadAdapter",
    );
  }
  // All are merged before any is freed: after training they may share a buffer.
  for (const lora of loras) if (!lora.merged) lora.merge();
  for (const lora of loras) lora.mergeForGood();
}
