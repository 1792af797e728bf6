/**
 * Models from folders, and with random weights.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Random } from "../../core/random.ts";
import { sameShape, showShape, sizeOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { quantizeFourBit } from "../../kernels/quant/four_bit.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { FourBitType } from "../../kernels/quant/tables.ts";
import { parseConfig, readConfig } from "../files/config.ts";
import { openCheckpoint, type TensorSource } from "../files/safetensors.ts";
import { type Json, loadTokenizer, type Tokenizer } from "../files/tokenizer.ts";
import type { LanguageModel } from "./language_model.ts";
import { Llama, llamaWeights, type WeightSpec } from "./llama.ts";

/** How a model is loaded. */
export interface LoadOptions {
  /** The scheme of the linear layers' weights; without it they stay in 32 bits. */
  readonly quantize?: FourBitType;
  /** Quantize the scales too (Dettmers et al., arXiv 2305.14314, section 3). */
  readonly doubleQuant?: boolean;
  /** Weights that share a scale: 64 by default. */
  readonly blockSize?: number;
  /** "all" for full fine-tuning; by default the model is frozen, and an adapter is trained. */
  readonly trainable?: "all" | "none";
}

/** So many weights are read and quantized at a time: their waiting overlaps, and few of them are in memory in 32 bits. */
const AT_ONCE = 16;

function checkOptions({ quantize, doubleQuant, blockSize, trainable }: LoadOptions): void {
  if (quantize !== undefined && quantize !== "nf4" && quantize !== "fp4") {
    throw new RangeError(`Cannot quantize to "${quantize}": wanted "nf4" or "fp4"`);
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

/** A weight in memory, in the form that the options want. */
async function place(
  device: Device,
  numbers: Float32Array<ArrayBuffer>,
  spec: WeightSpec,
  options: LoadOptions,
): Promise<Tensor | QuantizedTensor> {
  const dense = device.keep(tensor(device, numbers, spec.shape));
  if (spec.role === "linear" && options.quantize) {
    try {
      return await quantizeFourBit(dense, { ...options, type: options.quantize });
    } finally {
      dense.dispose();
    }
  }
  dense.requiresGrad = options.trainable === "all";
  return dense;
}

async function placeAll(
  device: Device,
  specs: ReadonlyMap<string, WeightSpec>,
  read: (name: string, spec: WeightSpec) => Promise<Float32Array<ArrayBuffer>>,
  options: LoadOptions,
): Promise<Map<string, Tensor | QuantizedTensor>> {
  const weights = new Map<string, Tensor | QuantizedTensor>();
  const all = [...specs];
  for (let from = 0; from < all.length; from += AT_ONCE) {
    const group = await Promise.all(
      all.slice(from, from + AT_ONCE).map(async ([name, spec]) => {
        const numbers = await read(name, spec);
        try {
          return [name, await place(device, numbers, spec, options)] as const;
        } catch (error) {
          throw new RangeError(`Cannot load "${name}": ${(error as Error).message}`, {
            cause: error,
          });
        }
      }),
    );
    for (const [name, weight] of group) weights.set(name, weight);
  }
  return weights;
}

/** Checks that a checkpoint has every weight, in the shape that config.json says. */
function checkWeights(
  source: TensorSource,
  specs: ReadonlyMap<string, WeightSpec>,
  folder: string,
): void {
  for (const [name, { shape }] of specs) {
    const entry = source.entries.get(name);
    if (!entry) {
      throw new RangeError(
        `Cannot load the model in "${folder}": its weights lack "${name}", which config.json calls for`,
      );
    }
    if (!sameShape(entry.shape, shape)) {
      throw new RangeError(
        `Cannot load the model in "${folder}": "${name}" has shape ${
          showShape(entry.shape)
        }, but config.json calls for ${showShape(shape)}`,
      );
    }
  }
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
 * F32, F16 or BF16), and tokenizer.json where there is one.
 *
 * @param device where it shall live
 * @param folder the path of the folder
 * @param options quantization, and what is trained
 * @throws {Error} if a file is missing
 * @throws {RangeError} if the weights do not fit config.json, or an option makes no sense
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
  const { config, json } = await readConfig(folder);
  const specs = llamaWeights(config);
  using source = await openCheckpoint(folder);
  checkWeights(source, specs, folder);
  const weights = await placeAll(device, specs, (name) => source.readFloats(name), options);
  const model = new Llama(device, config, json, weights);
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
  const config = parseConfig(configJson, "the given config");
  const weights = new Map<string, Tensor>();
  let stream = 0;
  for (const [name, { shape, role }] of llamaWeights(config)) {
    const numbers = new Float32Array(sizeOf(shape));
    const random = new Random(seed, stream++);
    if (role === "norm") numbers.fill(1);
    else if (role !== "bias") {
      for (let i = 0; i < numbers.length; i++) {
        numbers[i] = config.initializerRange * random.normal();
      }
    }
    const weight = device.keep(tensor(device, numbers, shape));
    weight.requiresGrad = trainable === "all";
    weights.set(name, weight);
  }
  return new Llama(device, config, configJson, weights);
}
