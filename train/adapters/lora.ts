/**
 * LoRA: low-rank updates beside a frozen model. Hu et al., "LoRA: Low-Rank Adaptation of Large Language Models"
 * (arXiv 2106.09685); with the scaling of Kalajdzievski, "A Rank Stabilization Scaling Factor for Fine-Tuning with LoRA"
 * (arXiv 2312.03732).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { Random } from "../../core/random.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import type { Adapter } from "../nn/adapter.ts";
import { Linear, type LinearLayer } from "../nn/linear.ts";
import type { Named } from "../nn/module.ts";
import { LoraBranch } from "./lora_branch.ts";
import { ALL_LINEAR, matchTargets, valueFor } from "./targets.ts";

/** What kind of LoRA to add. */
export interface LoraOptions {
  /** The rank: 8 by default. */
  readonly r?: number;
  /** The update is scaled by alpha / r: 16 by default, twice the default rank. */
  readonly alpha?: number;
  /** The probability with which elements of A's input are dropped in training; 0 by default. */
  readonly dropout?: number;
  /**
   * Which linear layers: a list of names (`["q_proj", "v_proj"]`) or paths, a regular expression for whole paths, or
   * "all-linear", the default: what matters most in QLoRA is an adapter on every layer (Dettmers et al., arXiv 2305.14314,
   * figure 2).
   */
  readonly targetModules?: readonly string[] | string;
  /** Scale by alpha / √r, so that large ranks learn as fast as small ones. */
  readonly useRslora?: boolean;
  /** The same seed gives the same A and the same dropout. 0 by default. */
  readonly seed?: number;
  /** Ranks of single layers, by a regular expression for the end of the path; the first that matches counts. */
  readonly rankPattern?: Readonly<Record<string, number>>;
  /** The same for alpha. */
  readonly alphaPattern?: Readonly<Record<string, number>>;
}

/** Streams of a seed that are apart from those that a random model with the same seed draws from ("lora" in ASCII). */
const FIRST_STREAM = 0x6c6f7261;

/** Every LoRA on a model, merged ones included. */
export function lorasOn(model: LanguageModel): readonly Lora[] {
  return [...model.adapters].filter((adapter) => adapter instanceof Lora);
}

function checkRank(r: number, name: string): void {
  if (Number.isSafeInteger(r) && r >= 1) return;
  throw new RangeError(`Cannot add LoRA: found ${name} ${r}, wanted a whole number of at least 1`);
}

function checkAlpha(alpha: number, name: string): void {
  if (Number.isFinite(alpha) && alpha > 0) return;
  throw new RangeError(`Cannot add LoRA: found ${name} ${alpha}, wanted a number above 0`);
}

/** The options with defaults in place. */
export function completeLora(options: LoraOptions): Required<LoraOptions> {
  const {
    r = 8,
    alpha = 16,
    dropout = 0,
    targetModules = ALL_LINEAR,
    useRslora = false,
    seed = 0,
    rankPattern = {},
    alphaPattern = {},
  } = options;
  checkRank(r, "r");
  checkAlpha(alpha, "alpha");
  for (const key in rankPattern) checkRank(rankPattern[key], `the rank of "${key}"`);
  for (const key in alphaPattern) checkAlpha(alphaPattern[key], `the alpha of "${key}"`);
  if (!(dropout >= 0 && dropout < 1)) {
    throw new RangeError(
      `Cannot add LoRA: found dropout ${dropout}, wanted a probability of at least 0 and below 1`,
    );
  }
  return { r, alpha, dropout, targetModules, useRslora, seed, rankPattern, alphaPattern };
}

/** The name that PEFT gives a branch's tensor. */
export function peftName(path: string, name: string): string {
  return `base_model.model.${path}.${name}`;
}

/** LoRA on a model: a branch on each of the chosen layers. `addLora` and `loadAdapter` make one. */
export class Lora implements Adapter {
  /** The model that it is on. */
  readonly model: LanguageModel;
  /** How it was made. */
  readonly options: Required<LoraOptions>;
  /** Its branches, by the path of the layer. */
  readonly branches: ReadonlyMap<string, LoraBranch>;
  /** u32 [2], seed and step of the dropout masks. Null where dropout is 0. */
  readonly dropoutState: Tensor | null;
  /** Whether dropout is on. Whoever trains sets it, and unsets it. */
  training = false;
  #state: "on" | "merged" | "gone" = "on";
  readonly #originals = new Map<string, LinearLayer>();
  readonly #frozen: Tensor[] = [];

  /** @ignore Use `addLora` or `loadAdapter`. `weights` are A and B by PEFT's names; without them LoRA starts fresh. */
  constructor(
    model: LanguageModel,
    options: Required<LoraOptions>,
    paths: readonly string[],
    weights?: ReadonlyMap<string, Float32Array>,
  ) {
    const { device } = model;
    const layers = new Map(model.linearLayers());
    for (const other of lorasOn(model)) {
      if (!other.merged) continue;
      throw new TypeError(
        "Cannot add LoRA: found another one merged into the model; call its unmerge(), or mergeAdapter() to keep it for good",
      );
    }
    const taken = paths.find((path) => layers.get(path)!.branch);
    if (taken !== undefined) {
      throw new TypeError(
        `Cannot add LoRA to "${taken}": found an adapter on it; call remove() on that one, or mergeAdapter()`,
      );
    }
    const { dropout: p, useRslora, seed } = options;
    this.model = model;
    this.options = options;
    this.dropoutState = p > 0 ? device.keep(tensor(device, Uint32Array.of(seed >>> 0, 0))) : null;
    const branches = new Map<string, LoraBranch>();
    for (const [site, path] of paths.entries()) {
      const layer = layers.get(path)!;
      const [outFeatures, inFeatures] = layer.shape;
      const r = valueFor(path, options.rankPattern, options.r);
      const alpha = valueFor(path, options.alphaPattern, options.alpha);
      const a = weights?.get(peftName(path, "lora_A.weight")) ??
        initialA(seed, site, r, inFeatures);
      const b = weights?.get(peftName(path, "lora_B.weight"));
      const state = this.dropoutState;
      const branch = new LoraBranch(
        device.keep(tensor(device, a, [r, inFeatures])),
        device.keep(b ? tensor(device, b, [outFeatures, r]) : zeros(device, [outFeatures, r])),
        alpha / (useRslora ? Math.sqrt(r) : r),
        state && { p, state, site, lora: this },
      );
      branch.a.requiresGrad = branch.b.requiresGrad = true;
      layer.branch = branch;
      branches.set(path, branch);
    }
    this.branches = branches;
    this.#freezeModel();
    model.adapters.add(this);
  }

  /** The model's own weights are frozen: an adapter's file could not hold what they learn. */
  #freezeModel(): void {
    for (const [, module] of this.model.modules()) {
      for (const [, own] of module.tensors()) {
        if (!own.requiresGrad) continue;
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

  /** Whether it is merged into the model and can be taken out again. */
  get merged(): boolean {
    return this.#state === "merged";
  }

  /** How many numbers A and B have in all layers. */
  get count(): number {
    let count = 0;
    for (const { a, b } of this.branches.values()) count += a.size + b.size;
    return count;
  }

  /** Bytes of A and B in memory, in all layers. */
  get bytes(): number {
    return 4 * this.count;
  }

  /** A and B of every layer, by the names that PEFT saves them under. */
  *parameters(): Generator<Named<Tensor>> {
    for (const [path, branch] of this.branches) {
      for (const [name, own] of branch.tensors()) yield [peftName(path, name), own];
    }
  }

  /**
   * Puts a dense layer with the weight `W + scaling · B · A` in the place of each layer; quantized ones are decoded for it, in
   * 32 bits. The originals are kept for `unmerge`. Steps that `capture` recorded before must be recorded anew.
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
      const weight = layer.dense();
      const merged = this.model.device.keep(noGrad(() => branch.mergeInto(weight)));
      const isOwn = [...layer.tensors()].some(([, own]) => own === weight);
      if (!isOwn) weight.dispose();
      this.model.replaceLinear(path, new Linear(merged, layer.bias));
      this.#originals.set(path, layer);
    }
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
    for (const own of this.#frozen) own.requiresGrad = true;
    this.#free();
  }

  /** @ignore Frees what `merge` keeps, and the branches; see `mergeAdapter`. */
  mergeForGood(): void {
    for (const layer of this.#originals.values()) layer.dispose();
    this.#originals.clear();
    this.#free();
  }

  #free(): void {
    // Training moves all parameters into one buffer: another adapter's may lie beside these, and must not go with them.
    const shared = new Set<Tensor["storage"]>();
    for (const other of lorasOn(this.model)) {
      if (other === this) continue;
      for (const [, own] of other.parameters()) shared.add(own.storage);
    }
    for (const [, own] of this.parameters()) if (!shared.has(own.storage)) own.dispose();
    this.dropoutState?.dispose();
    this.model.adapters.delete(this);
    this.#state = "gone";
  }
}

/** A's first values, as PEFT's `init_lora_weights: true` draws them: Kaiming-uniform with a = √5 is uniform in ±1/√in. */
function initialA(seed: number, site: number, r: number, inFeatures: number): Float32Array {
  const random = new Random(seed, FIRST_STREAM + site);
  const bound = 1 / Math.sqrt(inFeatures);
  return Float32Array.from({ length: r * inFeatures }, () => random.uniform(-bound, bound));
}

/**
 * Adds LoRA to a model and freezes the model's own weights. B begins at zero, so the model computes at first what it did before.
 *
 * @param model the model, in 32 bits or quantized
 * @param options rank, scaling, dropout, which layers
 * @throws {RangeError} if an option makes no sense, or a target module is none of the model's layers
 * @throws {TypeError} if a layer has an adapter already
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
 * ```
 */
export function addLora(model: LanguageModel, options: LoraOptions = {}): Lora {
  const chosen = completeLora(options);
  const paths = [...model.linearLayers()].map(([path]) => path);
  return new Lora(model, chosen, matchTargets(paths, chosen.targetModules));
}

/**
 * Merges every LoRA on a model for good: `W + scaling · B · A` takes the place of each weight, in 32 bits even where the weight was
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
