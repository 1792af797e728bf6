/**
 * Quantization-aware training: a model learns with its weights, and if wanted its activations, rounded as they will be, and is
 * then converted to whole numbers. Jacob et al. (arXiv 1712.05877); LLM-QAT, Liu et al. (arXiv 2305.17888).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { levelsOf } from "../../kernels/quant/affine.ts";
import type { GroupGrid } from "../../kernels/quant/group_grid.ts";
import type { LanguageModel } from "../models/language_model.ts";
import type { Adapter } from "../nn/adapter.ts";
import { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import {
  FixedQuantizer,
  type InputQuantizer,
  ObservedQuantizer,
  rangesOf,
  type Share,
  TokenQuantizer,
  WeightQuantizer,
} from "../nn/fake_quantizer.ts";
import { fixedAs } from "../nn/input_rounding.ts";
import { Linear, type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import type { Named } from "../nn/module.ts";
import { TransposedLinear } from "../nn/transposed_linear.ts";
import {
  completeActivations,
  type CompleteQatActivations,
  type CompleteQatWeights,
  completeWeights,
  type QatOptions,
} from "./qat_options.ts";

/** The quantization-aware training of a model; `prepareQat` makes one, `convertQat` ends it. */
export class Qat implements Adapter {
  /** The model. */
  readonly model: LanguageModel;
  /** Its layers that round, by path. */
  readonly layers: ReadonlyMap<string, FakeQuantLinear>;
  /** Whether observers look. Whoever trains sets it, and unsets it. */
  training = false;
  /** @ignore u32 [1]: the step of the training, counted from 1. */
  readonly step: Tensor;
  readonly #layers = new Map<string, FakeQuantLinear>();

  /** @ignore Use `prepareQat`. */
  constructor(model: LanguageModel) {
    this.model = model;
    this.layers = this.#layers;
    this.step = model.device.keep(zeros(model.device, [1], "u32"));
    model.adapters.add(this);
  }

  /** @ignore Puts a layer that rounds in the place of the one at a path. */
  put(path: string, layer: FakeQuantLinear): void {
    this.model.replaceLinear(path, layer);
    this.#layers.set(path, layer);
  }

  /** Tells observers the step; the trainer calls this before each one. */
  beginStep(_seed: number, step: number): void {
    this.model.device.write(this.step, Uint32Array.of(step));
  }

  /** The ranges that observers keep. */
  *state(): Generator<Named<Tensor>> {
    for (const [path, { inputs }] of this.layers) {
      for (const [name, own] of inputs?.state() ?? []) yield [`${path}.input.${name}`, own];
    }
  }

  /** How many layers round how. */
  get identity(): string {
    const kinds = new Map<string, number>();
    for (const { weights: { scheme, share, learns }, inputs } of this.layers.values()) {
      const own = inputs && [inputs.scheme, inputs.range];
      const kind = JSON.stringify({ scheme, share, learns, inputs: own });
      kinds.set(kind, (kinds.get(kind) ?? 0) + 1);
    }
    return `rounding ${[...kinds].map(([kind, count]) => `${count} layers ${kind}`).join(", ")}`;
  }

  /** @ignore Throws a TypeError if another layer than its own is at a path. */
  check(): void {
    const now = new Map(this.model.linearLayers());
    for (const [path, layer] of this.layers) {
      if (now.get(path) === layer) continue;
      throw new TypeError(
        `Cannot end quantization-aware training: found another layer at "${path}" than the one that was trained; convert ` +
          "before adapters are merged, or unmerge() them",
      );
    }
  }

  /** @ignore The layers are gone: frees the rest. */
  end(): void {
    this.#layers.clear();
    this.step.dispose();
    this.model.adapters.delete(this);
  }

  /** Takes the rounding off: the model has its plain layers again, with the weights as they were trained. */
  remove(): void {
    this.check();
    for (const [path, layer] of this.layers) this.model.replaceLinear(path, layer.release());
    this.end();
  }
}

/** The plain layer at a path. Throws a TypeError if it is quantized, or prepared already. */
function plainLayer(path: string, layer: LinearLayer): Linear | TransposedLinear {
  if (layer instanceof Linear || layer instanceof TransposedLinear) return layer;
  const found = layer instanceof QuantizedLinear
    ? `is in ${layer.weight.scheme}, and frozen; load the plain model, or this one with dequantize: true`
    : "is prepared already; call convertQat, or remove() what prepareQat returned";
  throw new TypeError(`Cannot prepare "${path}" for quantization-aware training: it ${found}`);
}

/** LSQ's first step, 2 · mean |w| / √most, for each group of a weight f32 [rows, columns] that is symmetric. */
function firstSteps(
  numbers: Float32Array,
  [rows, columns]: readonly number[],
  share: Share,
  most: number,
): Float32Array<ArrayBuffer> {
  const size = share.kind === "tensor" ? columns : share.size;
  const groups = Math.ceil(columns / size);
  const sums = new Float64Array(rows * groups);
  for (let i = 0; i < numbers.length; i++) {
    const row = Math.floor(i / columns);
    sums[row * groups + Math.floor((i - row * columns) / size)] += Math.abs(numbers[i]);
  }
  const first = (sum: number, count: number) => 2 * sum / count / Math.sqrt(most);
  if (share.kind === "tensor") {
    return Float32Array.of(first(sums.reduce((a, b) => a + b, 0), numbers.length));
  }
  return Float32Array.from(
    sums,
    (sum, i) => first(sum, Math.min(size, columns - i % groups * size)),
  );
}

/** The grid that learnt steps begin with. */
async function firstGrid(
  path: string,
  weight: Tensor,
  { scheme }: CompleteQatWeights,
  share: Share,
): Promise<GroupGrid> {
  const { device } = weight;
  const numbers = await weight.read() as Float32Array;
  const wrong = numbers.findIndex((number) => !Number.isFinite(number));
  if (wrong >= 0) {
    throw new RangeError(
      `Cannot prepare "${path}" for quantization-aware training: weight ${wrong} is ${
        numbers[wrong]
      }, wanted finite ones`,
    );
  }
  const made = device.scope(() => noGrad(() => rangesOf(weight, scheme, share)));
  const { scales, zeros } = made;
  const grid = { scales: device.keep(scales), zeros: device.keep(zeros) };
  if (scheme.kind === "symmetric") {
    const steps = firstSteps(numbers, weight.shape, share, levelsOf(scheme).most);
    // A group of nothing but zeros keeps its step of 0: it stays as it is.
    device.write(grid.scales, steps);
  }
  return grid;
}

async function weightQuantizer(
  path: string,
  layer: LinearLayer,
  options: CompleteQatWeights,
): Promise<WeightQuantizer> {
  const { scheme, learn } = options;
  const share: Share = options.share === "tensor" ? { kind: "tensor" } : {
    kind: "group",
    size: options.share === "channel"
      ? layer.shape[1]
      : Math.min(options.groupSize, layer.shape[1]),
  };
  if (!learn) return new WeightQuantizer(scheme, share);
  const weight = layer.dense();
  try {
    return new WeightQuantizer(scheme, share, await firstGrid(path, weight, options, share));
  } finally {
    if (![...layer.tensors()].some(([, own]) => own === weight)) weight.dispose();
  }
}

function inputQuantizer(
  qat: Qat,
  path: string,
  { scheme, range, observeSteps: steps, momentum, ranges }: CompleteQatActivations,
): InputQuantizer {
  if (range === "token") return new TokenQuantizer(scheme);
  const rounding = ranges.get(path);
  const fixed = rounding && fixedAs(rounding, scheme);
  if (fixed) return new FixedQuantizer(qat.model.device, scheme, fixed, range === "learnt");
  return new ObservedQuantizer(scheme, qat, { steps, momentum }, range === "learnt");
}

/**
 * Prepares a model for quantization-aware training: its linear layers compute with rounded weights, and if wanted with rounded
 * inputs, from now on; gradients flow into what is below as if there was no rounding (the straight-through estimator). Then `train`
 * it, with `trainable: "all"` or an adapter, and convert it with `convertQat`. The output layer and embeddings stay as they are.
 *
 * A pretrained model has little to learn from a text that it knows: give `train` the plain model as `teacher`, and a few hundred
 * steps win back what a text alone does not.
 *
 * With LoRA, rounding is of the sum `W + s · B · A`, so that merging loses nothing. Add it before this if steps are learnt: adding
 * it freezes them with all else that the model has.
 *
 * @param model a model with plain weights
 * @param options how weights and inputs are rounded
 * @throws {TypeError} if a layer is quantized, or prepared already, or has an adapter that cannot be added to its weight
 * @throws {RangeError} if an option makes no sense, or no layer is chosen
 *
 * @example
 * ```ts
 * import { convertQat, openDevice, prepareQat, randomModel, train } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 64,
 *   hidden_size: 32,
 *   intermediate_size: 64,
 *   num_hidden_layers: 1,
 *   num_attention_heads: 2,
 *   max_position_embeddings: 16,
 * }, { trainable: "all" });
 * await prepareQat(model, { weights: { bits: 4, groupSize: 32 }, activations: { observeSteps: 2 } });
 * const ids = Int32Array.from({ length: 16 }, (_, i) => i % 4);
 * const labels = ids.map((id) => (id + 1) % 4);
 * const run = train(model, [{ ids, labels }], { steps: 5, batchSize: 1, learningRate: 1e-2 });
 * for await (const { step, loss } of run) console.log(step, loss);
 * await convertQat(model);
 * console.log(model.weightBytes);
 * ```
 */
export async function prepareQat(model: LanguageModel, options: QatOptions = {}): Promise<Qat> {
  const { weights = {}, activations } = options;
  const choose = typeof weights === "function" ? weights : () => weights;
  const inputs = activations && completeActivations(activations, model.inputRoundings);
  const plans = [...model.linearLayers()].flatMap(([path, layer]) => {
    const own = choose(path);
    if (!own) return [];
    const plain = plainLayer(path, layer);
    // It throws what is wrong with the adapter, if something is.
    if (plain.branch) checkBranch(path, plain);
    return [{ path, plain, own: completeWeights(own) }];
  });
  if (plans.length === 0) {
    throw new RangeError(
      "Cannot prepare the model for quantization-aware training: no layer was chosen; give weights for one of " +
        `${[...model.linearLayers()].slice(0, 3).map(([path]) => `"${path}"`).join(", ")}, …`,
    );
  }
  const quantizers: WeightQuantizer[] = [];
  try {
    for (const { path, plain, own } of plans) {
      quantizers.push(await weightQuantizer(path, plain, own));
    }
  } catch (error) {
    for (const made of quantizers) made.dispose();
    throw error;
  }
  const qat = new Qat(model);
  for (const [i, { path, plain }] of plans.entries()) {
    const own = inputs ? inputQuantizer(qat, path, inputs) : null;
    qat.put(path, new FakeQuantLinear(plain, quantizers[i], own));
  }
  return qat;
}

function checkBranch(path: string, layer: Linear | TransposedLinear): void {
  const { branch } = layer;
  if (!branch?.inside) {
    throw new TypeError(
      `Cannot prepare "${path}" for quantization-aware training: the adapter on it is no LoRA`,
    );
  }
  const { device } = layer.weight;
  device.scope(() =>
    noGrad(() => {
      branch.inside!(
        tensor(device, new Float32Array(layer.shape[0] * layer.shape[1]), layer.shape),
      );
    })
  );
}
