/**
 * How much each layer suffers from few bits: one is quantized at a time, and what the model then says is compared with before.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { defaultWindow } from "../data/windows.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { Embedding } from "../nn/embedding.ts";
import { Linear } from "../nn/linear.ts";
import type { Named } from "../nn/module.ts";
import { chooseSchemes, type Chosen } from "../quant/choose_bits.ts";
import { parseScheme, type QuantizationPolicy, quantizeByPolicy } from "../quant/policy.ts";
import { checkPlain, quantizeWeight, type ReplacedLayers } from "../quant/weight_only.ts";
import { divergenceOf, logSumExp } from "./divergence.ts";
import { checkWindows } from "./perplexity.ts";
import { checkIds } from "./score.ts";

/** What a model is asked, to see how its answers change. */
export interface ProbeOptions {
  /** The text's tokens. */
  readonly ids: Int32Array;
  /** Tokens of a window; 256 by default, or the model's context if that is less. */
  readonly window?: number;
  /** Places in the text at which predictions are compared: each is as long as the vocabulary. 512 by default. */
  readonly places?: number;
}

/** How `measureSensitivity` goes about it. */
export interface SensitivityOptions extends ProbeOptions {
  /** The schemes to try, by the names that policies have. */
  readonly schemes: readonly string[];
  /**
   * Which layers are quantized together: each for itself by default; those of a "block", or of a "type", such as all up_proj; or what
   * has the same name by a function of the path.
   */
  readonly group?: "layer" | "block" | "type" | ((path: string) => string);
  /**
   * Whether the embedding, and an output layer of its own, are measured too: rounded and decoded again, as they stay in 32 or 16
   * bits. Not by default.
   */
  readonly others?: boolean;
  /** Told after each measurement. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What the predictions lose. */
export interface Shift {
  /** The mean Kullback-Leibler divergence from the predictions before, in nats. */
  readonly divergence: number;
  /** The change of the mean loss at the places, in nats. */
  readonly lossChange: number;
  /** Perplexity at the places. */
  readonly perplexity: number;
  /** Bytes of the weights that were quantized, scales included; of all linear layers where a policy is measured. */
  readonly bytes: number;
  /** The same for each weight. */
  readonly bitsPerWeight: number;
}

/** A scheme's effect on some layers. */
export interface SchemeShift extends Shift {
  /** Which. */
  readonly scheme: string;
}

/** Layers that were quantized together, and what came of it. */
export interface UnitSensitivity {
  /** The layer's path, or the group's name. */
  readonly name: string;
  /** Paths of its layers. */
  readonly layers: readonly string[];
  /** How many weights they have. */
  readonly weights: number;
  /** What each scheme does, in the order asked for. */
  readonly schemes: readonly SchemeShift[];
}

/** How much each layer suffers. */
export interface Sensitivity {
  /** Perplexity before, at the places. */
  readonly perplexity: number;
  /** Places that were compared. */
  readonly places: number;
  /** Weights of all units. */
  readonly weights: number;
  /** Each layer or group, in the model's order. */
  readonly units: readonly UnitSensitivity[];
  /** The embedding and the output layer, if they were asked for. `chooseBits` leaves them as they are. */
  readonly others: readonly UnitSensitivity[];
}

/** Tokens that go through a model together, and bytes that its logits may take. */
const TOKENS = 2048;
const LOGIT_BYTES = 64 << 20;

/** The same places of the same text, read again and again. */
class Probe {
  readonly #model: LanguageModel;
  readonly #windows: Int32Array<ArrayBuffer>[];
  /** For each window, places within it. */
  readonly #places: Int32Array<ArrayBuffer>;
  #before: { logits: Float32Array; loss: number } | null = null;

  constructor(model: LanguageModel, options: ProbeOptions) {
    const { ids, window = defaultWindow(model.config, "compare"), places = 512 } = options;
    checkWindows(model, ids.length, window);
    checkIds(model, ids, "the text");
    if (!Number.isInteger(places) || places < 1) {
      throw new RangeError(`Cannot compare ${places} places: wanted a whole number above 0`);
    }
    this.#model = model;
    const length = Math.min(window, ids.length);
    const all = Array.from(
      { length: Math.floor(ids.length / length) },
      (_, i) => Int32Array.from(ids.subarray(i * length, (i + 1) * length)),
    );
    // Fewer windows than places: else some of each.
    const count = Math.min(all.length, places);
    this.#windows = Array.from(
      { length: count },
      (_, i) => all[Math.floor(i * all.length / count)],
    );
    const each = Math.min(length - 1, Math.ceil(places / count));
    // The last token of a window has no label.
    this.#places = Int32Array.from(
      { length: each },
      (_, k) => Math.floor((k + 0.5) * (length - 1) / each),
    );
  }

  get size(): number {
    return this.#windows.length * this.#places.length;
  }

  get perplexity(): number {
    return Math.exp(this.#before!.loss);
  }

  /** Remembers what the model says now. */
  async begin(): Promise<void> {
    const logits = await this.#read();
    this.#before = { logits, loss: this.#loss(logits) };
  }

  /** How far what the model says now is from that. */
  async compare(): Promise<{ divergence: number; lossChange: number; perplexity: number }> {
    const { logits: before, loss: earlier } = this.#before!;
    const logits = await this.#read();
    const loss = this.#loss(logits);
    const divergence = divergenceOf(before, logits, this.#model.config.vocabSize);
    return { divergence, lossChange: loss - earlier, perplexity: Math.exp(loss) };
  }

  async #read(): Promise<Float32Array> {
    const { device, config } = this.#model;
    const [length, each] = [this.#windows[0].length, this.#places.length];
    const out = new Float32Array(this.size * config.vocabSize);
    const fitting = Math.min(TOKENS / length, LOGIT_BYTES / (4 * each * config.vocabSize));
    const most = Math.max(1, Math.floor(fitting));
    for (let from = 0; from < this.#windows.length; from += most) {
      const own = this.#windows.slice(from, from + most);
      const ids = new Int32Array(own.length * length);
      const places = new Int32Array(own.length * each);
      own.forEach((window, i) => {
        ids.set(window, i * length);
        places.set(this.#places.map((place) => place + i * length), i * each);
      });
      using logits = device.scope(() =>
        noGrad(() => {
          const at = tensor(device, places);
          return device.keep(
            this.#model.forward(tensor(device, ids, [own.length, length]), { places: at }),
          );
        })
      );
      out.set(await logits.read() as Float32Array, from * each * config.vocabSize);
    }
    return out;
  }

  /** The mean loss of the tokens that follow the places. */
  #loss(logits: Float32Array): number {
    const { vocabSize } = this.#model.config;
    let [sum, row] = [0, 0];
    for (const window of this.#windows) {
      for (const place of this.#places) {
        const own = logits.subarray(row * vocabSize, ++row * vocabSize);
        sum += logSumExp(own) - own[window[place + 1]];
      }
    }
    return sum / row;
  }
}

/** The name of the group that a layer is in. */
function groupName(path: string, group: SensitivityOptions["group"]): string {
  if (typeof group === "function") return group(path);
  const [, block, type] = /^(.*?\.\d+)\.(.+)$/.exec(path) ?? [];
  return (group === "block" ? block : group === "type" ? type : path) ?? path;
}

/** Bytes and weights of some layers as they are now. */
function sizeOf(model: LanguageModel, paths?: ReadonlySet<string>) {
  let [bytes, weights] = [0, 0];
  for (const [path, layer] of model.linearLayers()) {
    if (paths && !paths.has(path)) continue;
    bytes += layer.weightBytes;
    weights += layer.shape[0] * layer.shape[1];
  }
  return { bytes, weights, bitsPerWeight: 8 * bytes / weights };
}

async function withPolicy<T>(
  model: LanguageModel,
  policy: QuantizationPolicy,
  body: () => Promise<T>,
): Promise<T> {
  const replaced: ReplacedLayers = await quantizeByPolicy(model, policy);
  try {
    return await body();
  } finally {
    replaced.restore();
  }
}

/** Embeddings and an output layer of its own: weights [rows, columns] that no policy quantizes. */
function otherWeights(model: LanguageModel): Named<Tensor>[] {
  const layers = new Set([...model.linearLayers()].map(([path]) => path));
  const found: Named<Tensor>[] = [];
  for (const [path, module] of model.modules()) {
    if (layers.has(path) || !(module instanceof Embedding || module instanceof Linear)) continue;
    const { weight } = module;
    if (weight.dtype !== "f32") {
      throw new TypeError(
        `Cannot measure "${path}" in few bits: its weight is in ${weight.dtype}, wanted f32; load the model with weights: "f32"`,
      );
    }
    found.push([path, weight]);
  }
  return found;
}

/** What is lost if one weight is what a scheme decodes to. The weight is as before afterwards. */
async function shiftOf(probe: Probe, weight: Tensor, scheme: string): Promise<SchemeShift> {
  const { device, size } = weight;
  const own = parseScheme(scheme);
  if (!own) {
    return { scheme, bytes: weight.bytes, bitsPerWeight: 32, ...await probe.compare() };
  }
  const before = await weight.read() as Float32Array<ArrayBuffer>;
  const made = await quantizeWeight(weight, own);
  const { bytes } = made;
  const decoded = made.dequantize();
  const after = await decoded.read() as Float32Array<ArrayBuffer>;
  decoded.dispose();
  made.dispose();
  device.write(weight, after);
  try {
    return { scheme, bytes, bitsPerWeight: 8 * bytes / size, ...await probe.compare() };
  } finally {
    device.write(weight, before);
  }
}

/**
 * Quantizes one layer at a time, or one group of layers, in each of some schemes, and measures what the predictions lose. The model
 * is as before afterwards.
 *
 * @param model a model with plain weights
 * @param options the text, the schemes, what is quantized together
 * @throws {RangeError} if there are too few tokens, or a scheme has another name than schemes have
 * @throws {TypeError} if weights are quantized
 *
 * @example Bits by layer, in no more bytes than 5 bits a weight
 * ```ts
 * import { chooseBits, loadModel, measureSensitivity, openDevice, savePolicy } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails");
 * const options = { ids, schemes: ["int4", "int8"], group: "type" } as const;
 * const { policy, bytes } = chooseBits(await measureSensitivity(model, options), { bits: 5 });
 * console.log(bytes, policy.rules.map(({ scheme, layers }) => `${scheme}: ${layers.length} layers`));
 * await savePolicy(`${await Deno.makeTempDir()}/policy.json`, policy);
 * ```
 */
export async function measureSensitivity(
  model: LanguageModel,
  options: SensitivityOptions,
): Promise<Sensitivity> {
  const { schemes, group, onProgress } = options;
  for (const scheme of schemes) parseScheme(scheme);
  checkPlain(model, "measure the layers of");
  const groups = Map.groupBy(
    [...model.linearLayers()].map(([path]) => path),
    (path) => groupName(path, group),
  );
  const kept = options.others ? otherWeights(model) : [];
  const probe = new Probe(model, options);
  await probe.begin();
  const units: UnitSensitivity[] = [];
  const total = (groups.size + kept.length) * schemes.length;
  let done = 0;
  for (const [name, layers] of groups) {
    const paths = new Set(layers);
    const shifts: SchemeShift[] = [];
    for (const scheme of schemes) {
      shifts.push(
        await withPolicy(model, { rules: [{ layers, scheme }] }, async () => {
          const { bytes, bitsPerWeight } = sizeOf(model, paths);
          return { scheme, bytes, bitsPerWeight, ...await probe.compare() };
        }),
      );
      onProgress?.(++done, total);
    }
    units.push({ name, layers, weights: sizeOf(model, paths).weights, schemes: shifts });
  }
  const others: UnitSensitivity[] = [];
  for (const [name, weight] of kept) {
    const shifts: SchemeShift[] = [];
    for (const scheme of schemes) {
      shifts.push(await shiftOf(probe, weight, scheme));
      onProgress?.(++done, total);
    }
    others.push({ name, layers: [name], weights: weight.size, schemes: shifts });
  }
  const weights = units.reduce((sum, own) => sum + own.weights, 0);
  return { perplexity: probe.perplexity, places: probe.size, weights, units, others };
}

/** What whole policies do to a model, each measured on the same text. The model is as before afterwards. */
export async function measurePolicies(
  model: LanguageModel,
  policies: readonly QuantizationPolicy[],
  options: ProbeOptions,
): Promise<Shift[]> {
  const probe = new Probe(model, options);
  await probe.begin();
  const shifts: Shift[] = [];
  for (const policy of policies) {
    shifts.push(
      await withPolicy(model, policy, async () => {
        const { bytes, bitsPerWeight } = sizeOf(model);
        return { bytes, bitsPerWeight, ...await probe.compare() };
      }),
    );
  }
  return shifts;
}

/** How `chooseBits` chooses. */
export interface ChooseBitsOptions {
  /** Bits for each weight of the linear layers, scales included; or `bytes`. */
  readonly bits?: number;
  /** Bytes of the linear layers' weights. */
  readonly bytes?: number;
  /** "exact" by default; see `chooseSchemes`. */
  readonly method?: "exact" | "greedy";
  /** What is to be least: the sum of the "divergence", the default, or of the "loss" changes, which is noisier. */
  readonly measure?: "divergence" | "loss";
}

/**
 * Schemes for the layers, within a size, from what was measured one layer at a time: as if losses added up, which is about so where
 * they are small.
 *
 * @param sensitivity what `measureSensitivity` found
 * @param options the size: `bits` or `bytes`
 * @throws {RangeError} if the size is too small for any choice
 * @throws {TypeError} unless one size is given
 */
export function chooseBits(sensitivity: Sensitivity, options: ChooseBitsOptions): Chosen {
  const { bits, bytes, method, measure = "divergence" } = options;
  if ((bits === undefined) === (bytes === undefined)) {
    throw new TypeError("Cannot choose bits without one size: wanted either bits or bytes");
  }
  const units = sensitivity.units.map(({ layers, schemes }) => ({
    layers,
    choices: schemes.map((own) => ({
      scheme: own.scheme,
      bytes: own.bytes,
      cost: measure === "loss" ? own.lossChange : own.divergence,
    })),
  }));
  // A hair more, so that a budget of just the bits of a scheme is enough for it.
  const limit = bytes ?? Math.floor(bits! * sensitivity.weights / 8 + 1e-6);
  return chooseSchemes(units, { bytes: limit, method });
}
