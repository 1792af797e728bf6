/**
 * Models to folders.
 *
 * @module
 */
import { FourBitTensor } from "../../kernels/quant/four_bit.ts";
import { GgufBlockTensor } from "../../kernels/quant/gguf_block.ts";
import { IntegerTensor } from "../../kernels/quant/integer.ts";
import { integerParts } from "../../kernels/quant/integer_codes.ts";
import { OutlierTensor } from "../../kernels/quant/outlier_split.ts";
import { RotatedTensor } from "../../kernels/quant/rotated_tensor.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import { storeFourBit } from "../files/bitsandbytes.ts";
import { writeFolder, writeWhole } from "../files/output.ts";
import { integerConfig, type IntegerLayer, ownConfig } from "../files/compressed_config.ts";
import { storeBytes, storeInputs } from "../files/int_quantized.ts";
import { storeKept } from "../files/kept_columns.ts";
import { storeInteger } from "../files/pack_quantized.ts";
import { quantizationConfig } from "../files/quantization_config.ts";
import type { StoredInteger } from "../files/stored_integer.ts";
import { stepsConfig, writeSteps } from "../files/weight_steps.ts";
import { type TensorData, writeSafetensors } from "../files/safetensors.ts";
import { storeRotation } from "../files/turned_inputs.ts";
import { type Json, saveTokenizer } from "../files/tokenizer.ts";
import { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import { type InputRounding, roundingOf, roundingToBytes } from "../nn/input_rounding.ts";
import { Linear, LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { joinPath } from "../nn/module.ts";
import { readFloats } from "../nn/widen.ts";
import type { LanguageModel } from "./language_model.ts";
import { turned } from "./turn.ts";

/** How a model is saved. */
export interface SaveModelOptions {
  /**
   * What plain weights are saved in: "f32" by default; "f16" and "bf16" halve the size, rounding to nearest. For weights in
   * 4 bits, it is what Python decodes them to.
   */
  readonly dtype?: "f32" | "f16" | "bf16";
  /** Decode quantized weights, so that the folder holds a plain model: it rounds no inputs either. */
  readonly dequantize?: boolean;
  /**
   * With `dequantize`: keep the steps that integers lie on in a file beside the plain weights, so that `loadModel` with `quantize` and
   * their type gives the same integers, and leaves plain what was plain. Not for 8 bits in "bf16", which has no room for so many.
   */
  readonly steps?: boolean;
}

type SavedType = NonNullable<SaveModelOptions["dtype"]>;

/** What the types are called in config.json and in bitsandbytes' states. */
const TORCH_NAMES: Readonly<Record<SavedType, string>> = {
  f32: "float32",
  f16: "float16",
  bf16: "bfloat16",
};

/** The upper halves of f32, rounded to nearest, ties to even. */
function toBfloat16(numbers: Float32Array): Uint16Array {
  const bits = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
  const halves = new Uint16Array(numbers.length);
  for (let i = 0; i < bits.length; i++) {
    // Rounding must not carry a NaN over to infinity.
    halves[i] = Number.isNaN(numbers[i])
      ? bits[i] >>> 16 | 0x40
      : bits[i] + 0x7fff + (bits[i] >>> 16 & 1) >>> 16;
  }
  return halves;
}

function plainData(numbers: Float32Array, shape: readonly number[], dtype: SavedType): TensorData {
  switch (dtype) {
    case "f32":
      return { dtype: "F32", shape, data: numbers };
    case "f16":
      return { dtype: "F16", shape, data: new Float16Array(numbers) };
    case "bf16":
      return { dtype: "BF16", shape, data: toBfloat16(numbers) };
  }
}

/** Throws if a layer has what the format cannot hold. */
function checkLayer(path: string, layer: LinearLayer, dequantize: boolean): void {
  if (layer.branch) {
    throw new TypeError(
      `Cannot save the model: "${path}" has an adapter, and a model folder has no place for it; call mergeAdapter ` +
        "first, or save the adapter alone with saveAdapter",
    );
  }
  if (layer instanceof FakeQuantLinear) {
    throw new TypeError(
      `Cannot save the model: "${path}" is in quantization-aware training; call convertQat, or remove() what prepareQat returned`,
    );
  }
  if (dequantize || !(layer instanceof QuantizedLinear)) return;
  const { weight } = layer;
  // GGUF's blocks decode to just what the file holds: nothing is lost.
  if (isStored(weight) || weight instanceof GgufBlockTensor) {
    // A layer that does more to its input than to multiply or to round it would be another one when it is loaded.
    if (Object.getPrototypeOf(layer) === QuantizedLinear.prototype || roundingOf(layer)) return;
  }
  throw new TypeError(
    `Cannot save the model: "${path}" is in ${weight.scheme}, wanted nf4, fp4, or integers; pass ` +
      "dequantize: true to save plain weights",
  );
}

/** Whether a weight is written as it is. */
function isStored(
  weight: QuantizedTensor,
): weight is FourBitTensor | IntegerTensor | OutlierTensor | RotatedTensor {
  return weight instanceof FourBitTensor || weight instanceof IntegerTensor ||
    weight instanceof RotatedTensor || weight instanceof OutlierTensor && isStored(weight.rest);
}

/** Whether a model has what only nibble's own format has a place for. */
function isOwn(weights: readonly (QuantizedTensor | null)[]): boolean {
  const kinds = new Set<boolean>();
  for (const weight of weights) {
    if (weight instanceof OutlierTensor || weight instanceof RotatedTensor) return true;
    if (weight instanceof IntegerTensor && weight.zeroBits > weight.bits) return true;
    if (weight && isStored(weight)) kinds.add(weight instanceof IntegerTensor);
  }
  return kinds.size > 1;
}

/** The decoded weight of a quantized layer, [outFeatures, inFeatures]. */
async function readDecoded(layer: QuantizedLinear): Promise<Float32Array> {
  using dense = layer.dense();
  return await dense.read() as Float32Array;
}

/** What a quantized weight is in a file: its tensors, and its layer if it is in integers. */
interface StoredLayer {
  readonly tensors: Map<string, TensorData>;
  readonly integers: IntegerLayer | null;
}

/** A weight in integers, with what rounds the layer's inputs. */
async function storeIntegers(
  path: string,
  weight: IntegerTensor,
  rounding: InputRounding | null,
): Promise<StoredLayer> {
  const name = joinPath(path, "weight");
  const stored = { ...await integerParts(weight), shape: weight.shape };
  // Engines that multiply bytes want them unpacked.
  const layout = rounding && stored.type === "int8" ? "int-quantized" : "pack-quantized";
  const store = layout === "int-quantized" ? storeBytes : storeInteger;
  const tensors = store(name, stored);
  if (rounding?.fixed) {
    for (const [key, data] of storeInputs(name, rounding.scheme, rounding.fixed)) {
      tensors.set(key, data);
    }
  }
  const inputs = rounding && { scheme: rounding.scheme, dynamic: !rounding.fixed };
  return { tensors, integers: { path, layout, stored, inputs } };
}

/** A weight in integers for turned inputs. */
async function storeRotated(path: string, weight: RotatedTensor): Promise<StoredLayer> {
  const { turned, rotation: { before, after, size }, activations } = weight;
  const own = await storeIntegers(path, turned, roundingToBytes(activations));
  const [first, second] = await Promise.all([before.read(), after.read()]);
  const rotation = storeRotation(joinPath(path, "weight"), {
    before: first as Float32Array<ArrayBuffer>,
    after: second as Float32Array<ArrayBuffer>,
    size,
  });
  return { ...own, tensors: new Map([...own.tensors, ...rotation]) };
}

/** A quantized weight of a layer as it is; null if it must be decoded. */
async function storeWeight(
  path: string,
  layer: QuantizedLinear,
  weight: QuantizedTensor,
  dtype: SavedType,
): Promise<StoredLayer | null> {
  const name = joinPath(path, "weight");
  if (weight instanceof IntegerTensor) {
    return await storeIntegers(path, weight, roundingOf(layer));
  }
  if (weight instanceof RotatedTensor) return await storeRotated(path, weight);
  if (weight instanceof FourBitTensor) {
    const { shape, type, blockSize } = weight;
    const bytes = await weight.toBytes();
    const stored = { bytes, shape, type, blockSize, dtype: TORCH_NAMES[dtype] };
    return { tensors: storeFourBit(name, stored), integers: null };
  }
  if (!(weight instanceof OutlierTensor)) return null;
  const rest = await storeWeight(path, layer, weight.rest, dtype);
  const [kept, columns] = await Promise.all([weight.kept.read(), weight.choice.columns.read()]);
  const own = storeKept(name, {
    kept: kept as Float16Array<ArrayBuffer>,
    columns: columns as Int32Array<ArrayBuffer>,
  });
  return rest && { ...rest, tensors: new Map([...rest.tensors, ...own]) };
}

/** Whether weights of a type still lie on their steps where plain ones are saved in another: 255 steps are too many for BF16. */
function keepsSteps(dtype: SavedType, { bits }: IntegerTensor): boolean {
  return dtype !== "bf16" || bits < 8;
}

/** The steps of a model in integers, by the names of its weights; none where some are not kept. */
async function stepsOf(
  model: LanguageModel,
  dtype: SavedType,
): Promise<Map<string, StoredInteger>> {
  const steps = new Map<string, StoredInteger>();
  for (const [path, layer] of model.linearLayers()) {
    if (!(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor)) continue;
    const { weight } = layer;
    if (!keepsSteps(dtype, weight)) return new Map();
    steps.set(joinPath(path, "weight"), { ...await integerParts(weight), shape: weight.shape });
  }
  return steps;
}

/** Every tensor of the file, and the layers that are in integers. Tensors are by Hugging Face's name. */
async function tensorsOf(
  model: LanguageModel,
  dtype: SavedType,
  dequantize: boolean,
): Promise<{ tensors: Map<string, TensorData>; integers: IntegerLayer[] }> {
  const tensors = new Map<string, TensorData>();
  const integers: IntegerLayer[] = [];
  /** A linear weight [outFeatures, inFeatures], as files have it. */
  const linear = (path: string, numbers: Float32Array, [rows, columns]: readonly number[]) =>
    model.storesTransposed && path !== "lm_head"
      ? plainData(turned(numbers, rows, columns), [columns, rows], dtype)
      : plainData(numbers, [rows, columns], dtype);
  for (const [path, module] of model.modules()) {
    if (module instanceof QuantizedLinear) {
      const own = dequantize ? null : await storeWeight(path, module, module.weight, dtype);
      for (const [key, data] of own?.tensors ?? []) tensors.set(key, data);
      if (own?.integers) integers.push(own.integers);
      if (!own) {
        const numbers = await readDecoded(module);
        tensors.set(joinPath(path, "weight"), linear(path, numbers, module.shape));
      }
    }
    for (const [name, tensor] of module.tensors()) {
      const numbers = await readFloats(tensor);
      const data = module instanceof Linear && name === "weight"
        ? linear(path, numbers, tensor.shape)
        : plainData(numbers, tensor.shape, dtype);
      tensors.set(joinPath(path, name), data);
    }
  }
  return { tensors, integers };
}

/** The config.json of the saved model. */
function configOf(
  model: LanguageModel,
  dtype: SavedType,
  dequantize: boolean,
  integers: readonly IntegerLayer[],
): Json {
  const { torch_dtype: _, nibble: __, quantization_config: earlier, ...json } = model.configJson;
  const config: Json = { ...json, dtype: TORCH_NAMES[dtype] };
  const layers = [...model.linearLayers()];
  const weights = layers.map(([, layer]) => layer instanceof QuantizedLinear ? layer.weight : null);
  const plain = layers.filter((_, i) => !weights[i]).map(([path]) => path);
  if (dequantize) return config;
  if (isOwn(weights)) {
    config.quantization_config = ownConfig(integers, plain);
    return config;
  }
  if (integers.length > 0) config.quantization_config = integerConfig(integers, plain);
  const first = weights.find((weight) => weight instanceof FourBitTensor);
  if (!first) return config;
  config.quantization_config = quantizationConfig({
    type: first.type,
    doubleQuant: first.scales.kind === "nested",
    dtype: TORCH_NAMES[dtype],
    plain,
  }, earlier);
  return config;
}

/**
 * The text of config.json. JSON.stringify writes 6.0 as 6, and transformers refuses a whole number where bitsandbytes' threshold
 * should be.
 */
function textOf(config: Json): string {
  const text = JSON.stringify(config, null, 2);
  return `${text.replace(/("llm_int8_threshold": \d+)(?![\d.e])/, "$1.0")}\n`;
}

/**
 * Writes a model folder that transformers' `from_pretrained` and `loadModel` read: config.json, model.safetensors and the
 * tokenizer. Weights in NF4 and FP4 are written as they are, in bitsandbytes' format, those in integers in compressed-tensors' layouts,
 * with what rounds their layers' inputs, those in GGUF's blocks decoded. A model with weights of both kinds, by HQQ, or with columns
 * in 16 bits is written in nibble's own format, which `loadModel` alone reads: pass `dequantize` where others shall read it. The
 * folder appears whole or not at all. Adapters are not in it: merge them first, or save them apart.
 *
 * @param model the model
 * @param folder where to; what is there is replaced
 * @param options the data type, and whether quantized weights are decoded
 * @throws {TypeError} if a layer has an adapter, or is quantized in a way that the format does not have
 * @throws {Error} if the folder cannot be written
 *
 * @example
 * ```ts
 * import { openDevice, randomModel, saveModel } from "@nibble/nibble";
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
 * await saveModel(model, `${await Deno.makeTempDir()}/tiny`, { dtype: "f16" });
 * ```
 */
export async function saveModel(
  model: LanguageModel,
  folder: string,
  { dtype = "f32", dequantize = false, steps: keepSteps = false }: SaveModelOptions = {},
): Promise<void> {
  if (keepSteps && !dequantize) {
    throw new TypeError(
      "Cannot save the model with steps of plain weights: without dequantize integers are written as they are; leave steps out",
    );
  }
  for (const [path, module] of model.modules()) {
    if (module instanceof LinearLayer) checkLayer(path, module, dequantize);
  }
  const { tensors, integers } = await tensorsOf(model, dtype, dequantize);
  const config = configOf(model, dtype, dequantize, integers);
  const steps = keepSteps ? await stepsOf(model, dtype) : new Map<string, StoredInteger>();
  if (steps.size > 0) config.nibble = stepsConfig();
  await writeFolder(folder, async (draft) => {
    await writeWhole(`${draft}/config.json`, textOf(config));
    await writeSafetensors(`${draft}/model.safetensors`, tensors);
    if (steps.size > 0) await writeSteps(draft, steps);
    if (model.tokenizer) await saveTokenizer(model.tokenizer, draft);
  });
}
