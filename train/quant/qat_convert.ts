/**
 * The end of quantization-aware training: rounded weights become whole numbers.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { keptCopy, type Tensor } from "../../core/tensor.ts";
import { levelsOf } from "../../kernels/quant/affine.ts";
import { integerFromCodes, type IntegerParts } from "../../kernels/quant/integer_codes.ts";
import { INTEGER_BITS, type IntegerTensor } from "../../kernels/quant/integer.ts";
import { roundHalfEven } from "../../kernels/quant/rounding.ts";
import { lorasOn } from "../adapters/lora.ts";
import { LoraBranch } from "../adapters/lora_branch.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { moveOut } from "../models/move_out.ts";
import type { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import { FixedQuantizer, type InputQuantizer, ObservedQuantizer } from "../nn/fake_quantizer.ts";
import { type InputRounding, roundingLayer } from "../nn/input_rounding.ts";
import { Linear, QuantizedLinear } from "../nn/linear.ts";
import { Qat } from "./qat.ts";
import { denseWeight } from "./weight_only.ts";

/** Codes and scales of a rounded weight. It lies on its grid already, so its codes are found without doubt. */
function partsOf(
  path: string,
  layer: FakeQuantLinear,
  weight: Float32Array,
  steps: Float32Array,
  zeros: Float32Array,
): IntegerParts {
  const { weights: { scheme, share }, shape: [rows, columns] } = layer;
  const { least, most } = levelsOf(scheme);
  const type = scheme.bits > 4 ? "int8" : `int${scheme.bits as 4 | 3 | 2}` as const;
  const shift = least === 0 ? 0 : 2 ** (INTEGER_BITS[type] - 1);
  const groupSize = share.kind === "tensor" ? columns : share.size;
  const perRow = Math.ceil(columns / groupSize);
  const codes = new Uint8Array(rows * columns);
  const scales = new Float32Array(2 * rows * perRow);
  for (let group = 0; group < rows * perRow; group++) {
    const at = share.kind === "tensor" ? 0 : group;
    const [scale, zero] = [steps[at], Math.max(least, Math.min(most, roundHalfEven(zeros[at])))];
    scales.set([scale, zero + shift], 2 * group);
    const row = Math.floor(group / perRow);
    const from = row * columns + (group - row * perRow) * groupSize;
    const to = Math.min(from + groupSize, (row + 1) * columns);
    for (let i = from; i < to; i++) {
      if (!Number.isFinite(weight[i])) {
        throw new RangeError(
          `Cannot convert "${path}": weight ${i} is ${
            weight[i]
          }, wanted finite ones; lower the learning rate`,
        );
      }
      const level = scale === 0 ? zero : Math.round(weight[i] / scale) + zero;
      codes[i] = Math.max(least, Math.min(most, level)) + shift;
    }
  }
  return { type, groupSize, codes, scales };
}

/** A layer's weight in whole numbers, with the adapter's update in it. */
async function integersOf(path: string, layer: FakeQuantLinear): Promise<IntegerTensor> {
  const { device } = layer.plain.weight;
  const made = device.scope(() =>
    noGrad(() => {
      const { weight, grid } = layer.rounded();
      return [weight, grid.scales, grid.zeros].map((t) => device.keep(t));
    })
  );
  const [weight, steps, zeros] = await Promise.all(made.map((t) => t.read()));
  for (const t of made) if (!layer.weights.holds(t)) t.dispose();
  const parts = [weight, steps, zeros] as Float32Array[];
  return integerFromCodes(
    device,
    layer.shape,
    partsOf(path, layer, parts[0], parts[1], parts[2]),
  );
}

/** Throws unless an observer has seen something that makes sense. */
async function checkSeen(path: string, { ranges }: ObservedQuantizer): Promise<void> {
  const [low, high] = await ranges.running.read();
  if (!(Number.isFinite(low) && Number.isFinite(high))) {
    throw new RangeError(
      `Cannot convert "${path}": its inputs were seen from ${low} to ${high}, wanted finite numbers`,
    );
  }
  if (low > high) {
    throw new TypeError(
      `Cannot convert "${path}": no input of it was observed yet; train for a step at least, or take range: "token"`,
    );
  }
}

/** How inputs are rounded from now on. */
async function inputsOf(
  path: string,
  inputs: InputQuantizer,
  device: Device,
): Promise<InputRounding> {
  const { scheme } = inputs;
  const isFixed = inputs instanceof ObservedQuantizer || inputs instanceof FixedQuantizer;
  if (!isFixed) return { scheme, fixed: null };
  if (inputs instanceof ObservedQuantizer) await checkSeen(path, inputs);
  const grid = device.scope(() =>
    noGrad(() => {
      const { scales, zeros } = inputs.grid();
      return [scales, zeros].map(keptCopy);
    })
  );
  const [scale, zero] = await Promise.all(grid.map((t) => t.item()));
  for (const t of grid) t.dispose();
  const { least, most } = levelsOf(scheme);
  return { scheme, fixed: { scale, zero: Math.max(least, Math.min(most, roundHalfEven(zero))) } };
}

/** Adapters' updates of layers that were not prepared are merged in 32 bits. */
function mergeOthers(model: LanguageModel, prepared: ReadonlyMap<string, unknown>): void {
  for (const [path, layer] of [...model.linearLayers()]) {
    const { branch } = layer;
    if (prepared.has(path) || !(branch instanceof LoraBranch)) continue;
    const { weight, own } = denseWeight(layer);
    const merged = model.device.keep(noGrad(() => branch.mergeInto(weight)));
    if (own) weight.dispose();
    model.replaceLinear(path, new Linear(merged, layer.bias));
    layer.dispose();
  }
}

/**
 * Ends quantization-aware training: whole numbers take the place of the weights that were trained, with the updates of LoRA in them,
 * which is gone then; layers whose inputs were rounded go on rounding them. The model gives the logits that it gave before, to
 * rounding. Trainers on it must be disposed.
 *
 * `saveModel` writes whole numbers, and the ranges of inputs with them: a model that is loaded from there rounds as this one does, and
 * `prepareQat` begins with those ranges. With `dequantize` it writes the rounded weights as a plain model, with `steps` their
 * steps beside them: `loadModel` with `quantize` and their type gives the whole numbers back, also where steps were learnt.
 *
 * @param model a model that `prepareQat` has prepared
 * @throws {TypeError} if it was not, or a layer was replaced since, or no activation was observed
 * @throws {RangeError} if a weight is no longer a number
 *
 * @example LoRA on a model that shall be in INT4
 * ```ts
 * import { addLora, convertQat, openDevice, prepareQat, randomModel, saveModel, train } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const json = {
 *   model_type: "llama",
 *   vocab_size: 64,
 *   hidden_size: 32,
 *   intermediate_size: 64,
 *   num_hidden_layers: 1,
 *   num_attention_heads: 2,
 *   max_position_embeddings: 16,
 * };
 * const [model, teacher] = [randomModel(device, json), randomModel(device, json)];
 * addLora(model, { r: 4 });
 * await prepareQat(model, { weights: { bits: 4, groupSize: 32 } });
 * const ids = Int32Array.from({ length: 16 }, (_, i) => i % 4);
 * for await (const { step, loss } of train(model, [{ ids, labels: ids }], { steps: 5, batchSize: 1, teacher })) {
 *   console.log(step, loss); // the divergence from the teacher
 * }
 * await convertQat(model);
 * await saveModel(model, `${await Deno.makeTempDir()}/rounded`, { dequantize: true, steps: true });
 * ```
 */
export async function convertQat(model: LanguageModel): Promise<void> {
  const all = [...model.adapters].filter((adapter) => adapter instanceof Qat);
  if (all.length === 0) {
    throw new TypeError("Cannot convert the model: it was not prepared; call prepareQat and train");
  }
  for (const qat of all) qat.check();
  const converted = new Map<string, QuantizedLinear>();
  const layers = new Map(all.flatMap((qat) => [...qat.layers]));
  try {
    for (const [path, layer] of layers) {
      const inputs = layer.inputs && await inputsOf(path, layer.inputs, model.device);
      const weight = await integersOf(path, layer);
      converted.set(
        path,
        inputs
          ? roundingLayer(weight, layer.bias, inputs)
          : new QuantizedLinear(weight, layer.bias),
      );
    }
  } catch (error) {
    for (const layer of converted.values()) layer.dispose();
    throw error;
  }
  const freed = new Set<Tensor>();
  for (const layer of layers.values()) {
    for (const [, own] of layer.tensors()) if (own !== layer.bias) freed.add(own);
  }
  for (const lora of lorasOn(model)) for (const [, own] of lora.parameters()) freed.add(own);
  moveOut(model, freed);
  for (const [path, layer] of converted) model.replaceLinear(path, layer);
  mergeOthers(model, layers);
  for (const lora of lorasOn(model)) lora.mergeForGood();
  for (const layer of layers.values()) layer.dispose();
  for (const qat of all) qat.end();
}
