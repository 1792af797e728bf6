/**
 * Models from folders, and with random weights.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { noGrad } from "../../core/autograd.ts";
import { Random } from "../../core/random.ts";
import { sameShape, showShape, sizeOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { fourBitFromBytes, quantizeFourBit } from "../../kernels/quant/four_bit.ts";
import { transpose } from "../../kernels/pointwise/transpose.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import { type IntegerType, quantizeInteger } from "../../kernels/quant/integer.ts";
import type { FourBitType } from "../../kernels/quant/tables.ts";
import { isFourBit, readFourBit, type StoredFourBit } from "../files/bitsandbytes.ts";
import { readConfig } from "../files/config.ts";
import { resolveModel } from "../files/hub.ts";
import { saysFourBit } from "../files/quantization_config.ts";
import { openCheckpoint, type TensorSource } from "../files/safetensors.ts";
import { type Json, loadTokenizer, type Tokenizer } from "../files/tokenizer.ts";
import type { WeightSpec } from "./architecture.ts";
import { blueprintOf } from "./architectures.ts";
import { findWeights } from "./check_weights.ts";
import { conversionNotes, openGgufModel } from "./gguf.ts";
import type { LanguageModel } from "./language_model.ts";
import { IN_FLIGHT, type Pieces, piecesOf, quantizePieces, uploadPieces } from "./pieces.ts";

/** The schemes that weights can be quantized to while a model is loaded. */
export type QuantizationScheme = FourBitType | IntegerType;

const SCHEMES: readonly QuantizationScheme[] = ["nf4", "fp4", "int8", "int4"];

/** How a model is loaded. */
export interface LoadOptions {
  /**
   * The scheme of the linear layers' weights; without it they stay as the checkpoint has them: in 32 bits, or in the 4 bits of
   * bitsandbytes.
   */
  readonly quantize?: QuantizationScheme;
  /** Quantize the scales too (Dettmers et al., arXiv 2305.14314, section 3). */
  readonly doubleQuant?: boolean;
  /** Weights that share a scale: 64 by default, and for int8 a whole row. */
  readonly blockSize?: number;
  /** "all" for full fine-tuning; by default the model is frozen, and an adapter is trained. */
  readonly trainable?: "all" | "none";
}

function isInteger(scheme: QuantizationScheme | undefined): scheme is IntegerType {
  return scheme === "int8" || scheme === "int4";
}

function checkOptions({ quantize, doubleQuant, blockSize, trainable }: LoadOptions): void {
  if (quantize !== undefined && !SCHEMES.includes(quantize)) {
    throw new RangeError(`Cannot quantize to "${quantize}": wanted one of ${SCHEMES.join(", ")}`);
  }
  if (doubleQuant && isInteger(quantize)) {
    throw new TypeError(
      `Cannot load with doubleQuant: ${quantize} has no scales to quantize again; leave it out, or take nf4`,
    );
  }
  if (quantize === undefined && (doubleQuant || blockSize !== undefined)) {
    throw new TypeError(
      `Cannot load with ${
        doubleQuant ? "doubleQuant" : "blockSize"
      } alone: say the scheme too, as quantize: "nf4"`,
    );
  }
  if (quantize !== undefined && trainable === "all") {
    throw new TypeError(
      "Cannot train all of a quantized model: its weights are frozen. Add an adapter with addLora, or load it without quantize",
    );
  }
}

/** A weight as a checkpoint has it. */
type Stored = Pieces | StoredFourBit;

/** Throws unless a weight that is in 4 bits already is what the options ask for. What they leave open is as it is stored. */
function checkStored(
  { type, blockSize, shape, bytes }: StoredFourBit,
  spec: WeightSpec,
  options: LoadOptions,
): void {
  const wantedShape = spec.transposed ? spec.shape.toReversed() : spec.shape;
  if (!sameShape(shape, wantedShape)) {
    throw new RangeError(
      `it has shape ${showShape(shape)}, but config.json calls for ${showShape(wantedShape)}`,
    );
  }
  const isNested = !(bytes.scales instanceof Float32Array);
  const { quantize = type, doubleQuant = false, blockSize: wanted = blockSize } = options;
  if (quantize === type && (isNested || !doubleQuant) && wanted === blockSize) return;
  const show = (scheme: QuantizationScheme, nested: boolean, block: number) =>
    `${scheme}${nested ? " with doubleQuant" : ""} in blocks of ${block}`;
  throw new RangeError(
    `it is stored as ${show(type, isNested, blockSize)}, but ${
      show(quantize, doubleQuant, wanted)
    } was asked for; load it without quantize, or quantize the model that it was made from`,
  );
}

/** A weight that was stored in 4 bits, on the device. */
function placeFourBit(
  device: Device,
  stored: StoredFourBit,
  spec: WeightSpec,
  options: LoadOptions,
): Tensor | QuantizedTensor {
  checkStored(stored, spec, options);
  const weight = fourBitFromBytes(device, stored.bytes, stored.shape, stored);
  if (spec.role === "linear") return weight;
  // An output layer can be in 4 bits where a list of one's own of what to skip forgot it. Here it is computed in 32 bits.
  try {
    return device.keep(weight.dequantize());
  } finally {
    weight.dispose();
  }
}

/** A weight in integers. They are rounded on the host, which holds this one weight in 32 bits. */
function placeInteger(
  device: Device,
  pieces: Pieces,
  { shape, transposed }: WeightSpec,
  type: IntegerType,
  groupSize: number | undefined,
): QuantizedTensor {
  const [rows, columns] = shape;
  let numbers = new Float32Array(rows * columns);
  let at = 0;
  for (const piece of pieces) {
    numbers.set(piece, at);
    at += piece.length;
  }
  if (!transposed) return quantizeInteger(device, numbers, [rows, columns], { type, groupSize });
  const given = numbers;
  numbers = new Float32Array(given.length);
  for (let i = 0; i < given.length; i++) {
    numbers[(i % columns) * rows + Math.floor(i / columns)] = given[i];
  }
  return quantizeInteger(device, numbers, [columns, rows], { type, groupSize });
}

/** A weight in memory, in the form that the options want. */
async function place(
  device: Device,
  stored: Stored,
  spec: WeightSpec,
  options: LoadOptions,
): Promise<Tensor | QuantizedTensor> {
  if ("bytes" in stored) return placeFourBit(device, stored, spec, options);
  const { quantize, blockSize } = options;
  const isQuantized = spec.role === "linear" && quantize;
  if (isQuantized && isInteger(quantize)) {
    return placeInteger(device, stored, spec, quantize, blockSize);
  }
  const fourBit = { ...options, type: quantize as FourBitType | undefined };
  if (isQuantized && !spec.transposed) {
    return await quantizePieces(device, stored, spec.shape as [number, number], fourBit);
  }
  const dense = await uploadPieces(device, stored, spec.shape);
  if (isQuantized) {
    const turned = device.keep(noGrad(() => transpose(dense)));
    dense.dispose();
    try {
      return await quantizeFourBit(turned, fourBit);
    } finally {
      turned.dispose();
    }
  }
  dense.requiresGrad = options.trainable === "all";
  return dense;
}

/** Weights in groups whose waiting overlaps: small ones together, a large one alone. */
function* groupsOf(
  specs: ReadonlyMap<string, WeightSpec>,
): Generator<[string, WeightSpec][]> {
  let group: [string, WeightSpec][] = [];
  let bytes = 0;
  for (const [name, spec] of specs) {
    const own = 4 * sizeOf(spec.shape);
    if (group.length > 0 && bytes + own > IN_FLIGHT) {
      yield group;
      [group, bytes] = [[], 0];
    }
    group.push([name, spec]);
    bytes += own;
  }
  if (group.length > 0) yield group;
}

async function placeAll(
  device: Device,
  specs: ReadonlyMap<string, WeightSpec>,
  read: (name: string) => Promise<Stored>,
  options: LoadOptions,
): Promise<Map<string, Tensor | QuantizedTensor>> {
  const weights = new Map<string, Tensor | QuantizedTensor>();
  for (const some of groupsOf(specs)) {
    const group = await Promise.all(
      some.map(async ([name, spec]) => {
        const stored = await read(name);
        try {
          return [name, await place(device, stored, spec, options)] as const;
        } catch (error) {
          throw new RangeError(`Cannot load "${name}": ${(error as Error).message}`, {
            cause: error,
          });
        }
      }),
    );
    for (const [name, weight] of group) weights.set(name, weight);
  }
  // The buffers that weights were quantized from.
  device.trim();
  return weights;
}

/** Whether any weight is in 4 bits. Throws if config.json says so, but none is, or a weight that is would have to be trained. */
function checkQuantized(
  source: TensorSource,
  names: ReadonlyMap<string, string>,
  says: boolean,
  folder: string,
  trainable: LoadOptions["trainable"],
): void {
  const quantized = [...names.values()].find((name) => isFourBit(source, name));
  if (says && !quantized) {
    throw new RangeError(
      `Cannot load the model in "${folder}": config.json says that its weights are in 4 bits, but no weight has a ` +
        "quant_state tensor; remove quantization_config from config.json if they are plain",
    );
  }
  if (quantized && trainable === "all") {
    throw new TypeError(
      `Cannot train all of the model in "${folder}": "${quantized}" is stored in 4 bits, and frozen. Add an adapter with ` +
        "addLora, or load the model that it was made from",
    );
  }
}

/** Loads the model in a GGUF file. */
async function loadGguf(
  device: Device,
  path: string,
  options: LoadOptions,
): Promise<LanguageModel> {
  const file = await openGgufModel(path);
  using source = file.source;
  const blueprint = blueprintOf(file.json, path);
  findWeights(source, blueprint, path);
  const specs = blueprint.weights;
  const weights = await placeAll(device, specs, (name) => piecesOf(source, name), options);
  const model = blueprint.create(device, file.json, weights);
  model.tokenizer = file.tokenizer;
  model.notes = [...file.notes, ...conversionNotes(file, specs, options.quantize)];
  return model;
}

/** The tokenizer of a folder, or null where there is no tokenizer.json. */
async function tokenizerIn(folder: string): Promise<Tokenizer | null> {
  try {
    await Deno.stat(`${folder}/tokenizer.json`);
  } catch {
    return null;
  }
  return await loadTokenizer(folder);
}

/**
 * Loads a model folder as Hugging Face's `save_pretrained` writes it: config.json, model.safetensors (whole or in shards, in
 * F32, F16 or BF16), and tokenizer.json where there is one. Checkpoints in bitsandbytes' NF4 and FP4 are loaded as they are.
 *
 * Or loads llama.cpp's GGUF file of a Llama, Mistral, Qwen2 or Qwen3 with its tokenizer and chat template. Its weights are decoded, and with
 * `quantize` quantized again in Hugging Face's layout; `model.notes` says which.
 *
 * @param device where it shall live
 * @param folder the path of the folder, or of a `.gguf` file; or `org/name` or `org/name@revision` of the Hugging Face hub
 * @param options quantization, and what is trained
 * @throws {Error} if a file is missing
 * @throws {RangeError} if the weights do not fit config.json, are in 4 bits other than those asked for, or an option makes no sense
 * @throws {TypeError} if the architecture or the checkpoint's quantization is not supported, or what is frozen should be trained
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, randomModel, saveModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const json = {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * };
 * const folder = `${await Deno.makeTempDir()}/tiny`;
 * await saveModel(randomModel(device, json, { seed: 1 }), folder);
 * const model = await loadModel(device, folder, { quantize: "nf4", doubleQuant: true });
 * console.log(model.count().total, model.weightBytes);
 * ```
 */
export async function loadModel(
  device: Device,
  folder: string,
  options: LoadOptions = {},
): Promise<LanguageModel> {
  checkOptions(options);
  if (/\.gguf$/i.test(folder)) return await loadGguf(device, folder, options);
  folder = await resolveModel(folder);
  const { json, path } = await readConfig(folder);
  const blueprint = blueprintOf(json, path);
  using source = await openCheckpoint(folder);
  const names = findWeights(source, blueprint, folder);
  checkQuantized(source, names, saysFourBit(json, path), folder, options.trainable);
  const read = (name: string): Promise<Stored> => {
    const own = names.get(name)!;
    return isFourBit(source, own) ? readFourBit(source, own) : piecesOf(source, own);
  };
  const weights = await placeAll(device, blueprint.weights, read, options);
  const model = blueprint.create(device, json, weights);
  model.tokenizer = await tokenizerIn(folder);
  return model;
}

/** How random weights are drawn. */
export interface RandomModelOptions {
  /** The same seed gives the same weights. 0 by default. */
  readonly seed?: number;
  /** "all" to pretrain it. */
  readonly trainable?: "all" | "none";
}

/**
 * A model with random weights, to be pretrained: normal with deviation `initializer_range`, gains 1, biases 0, as transformers
 * does it.
 *
 * @param device where it shall live
 * @param configJson the content of a config.json
 * @param options the seed, and what is trained
 *
 * @example
 * ```ts
 * import { openDevice, randomModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 *   tie_word_embeddings: true,
 * }, { trainable: "all" });
 * console.log(model.count()); // { total: 102720, trainable: 102720 }
 * ```
 */
export function randomModel(
  device: Device,
  configJson: Json,
  { seed = 0, trainable = "none" }: RandomModelOptions = {},
): LanguageModel {
  const blueprint = blueprintOf(configJson, "the given config");
  const weights = new Map<string, Tensor>();
  let stream = 0;
  const deviation = blueprint.config.initializerRange;
  for (const [name, { shape, role, spread = 1 }] of blueprint.weights) {
    const numbers = new Float32Array(sizeOf(shape));
    const random = new Random(seed, stream++);
    if (role === "norm") numbers.fill(1);
    else if (role !== "bias") {
      for (let i = 0; i < numbers.length; i++) {
        numbers[i] = spread * deviation * random.normal();
      }
    }
    const weight = device.keep(tensor(device, numbers, shape));
    weight.requiresGrad = trainable === "all";
    weights.set(name, weight);
  }
  return blueprint.create(device, configJson, weights);
}
