/**
 * Models from folders, and with random weights.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Random } from "../../core/random.ts";
import { sizeOf } from "../../core/shape.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { isFourBit } from "../files/bitsandbytes.ts";
import { readConfig } from "../files/config.ts";
import { isGgufPath } from "../files/gguf.ts";
import { resolveModel } from "../files/hub.ts";
import { type IntegerConfig, readIntegerConfig } from "../files/compressed_config.ts";
import { saysFourBit } from "../files/quantization_config.ts";
import { openCheckpoint, type TensorSource } from "../files/safetensors.ts";
import { isInteger as isStoredInteger } from "../files/stored_integer.ts";
import { namesSteps, openSteps, STEPS_FILE } from "../files/weight_steps.ts";
import { type Json, loadTokenizer, type Tokenizer } from "../files/tokenizer.ts";
import { blueprintOf } from "./architectures.ts";
import { findWeights } from "./check_weights.ts";
import { conversionNotes, openGgufModel, storedBlocks } from "./gguf.ts";
import { HalvesReport } from "./halves.ts";
import type { LanguageModel } from "./language_model.ts";
import { checkOptions, isInteger, type LoadOptions } from "./load_options.ts";
import { piecesOf } from "./pieces.ts";
import { placeAll, type Stored } from "./place.ts";
import { readWeight, roundInputs } from "./read_weights.ts";
import { turned } from "./turn.ts";

export type { LoadOptions, QuantizationScheme } from "./load_options.ts";

/** Throws if weights are stored otherwise than config.json says, or one that is quantized would have to be trained. */
function checkQuantized(
  source: TensorSource,
  names: ReadonlyMap<string, string>,
  integers: IntegerConfig | null,
  saysFourBit: boolean,
  folder: string,
  { trainable, dequantize }: LoadOptions,
): void {
  const all = [...names.values()];
  const whole = all.find((name) => isStoredInteger(source, name));
  const four = all.find((name) => isFourBit(source, name));
  if (saysFourBit && !four) {
    throw new RangeError(
      `Cannot load the model in "${folder}": config.json says that its weights are in 4 bits, but no weight has a ` +
        "quant_state tensor; remove quantization_config from config.json if they are plain",
    );
  }
  const stored = whole ?? (integers?.isOwn ? four : undefined);
  if ((integers !== null) !== (stored !== undefined)) {
    const problem = integers
      ? `config.json says that its weights are ${
        integers.isOwn ? "quantized" : "integers"
      }, but none is`
      : `"${whole}" is stored as integers, but config.json has no quantization_config for those`;
    throw new RangeError(
      `Cannot load the model in "${folder}": ${problem}; is it that of another model?`,
    );
  }
  const frozen = whole ?? four;
  if (frozen !== undefined && trainable === "all" && !dequantize) {
    throw new TypeError(
      `Cannot train all of the model in "${folder}": "${frozen}" is stored ${
        whole ? "as integers" : "in 4 bits"
      }, and frozen. Add an adapter with addLora, or load the model that it was made from, or this one with dequantize: true`,
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
  const read = async (name: string): Promise<Stored> => {
    const type = storedBlocks(source, name, specs.get(name)!, options);
    return type ? { type, blocks: source.bytePieces(name) } : await piecesOf(source, name);
  };
  const report = new HalvesReport();
  const weights = await placeAll(device, specs, read, options, report);
  const model = blueprint.create(device, file.json, weights);
  model.tokenizer = file.tokenizer;
  model.notes = [
    ...file.notes,
    ...conversionNotes(file, specs, options),
    ...report.notes(options),
  ];
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
 * F32, F16 or BF16), and tokenizer.json where there is one. Checkpoints in bitsandbytes' NF4 and
 * FP4, in compressed-tensors' INT8, INT4, INT3 and INT2, packed or in bytes, and in nibble's own format are loaded as they are; layers
 * whose inputs a checkpoint rounds round them, and multiply in whole numbers where those are bytes.
 *
 * Or loads llama.cpp's GGUF file of a Llama, Mistral, Qwen2 or Qwen3 with its tokenizer and chat template. The linear layers' weights
 * stay in its blocks, whose values nibble has to the last bit, and an adapter is trained over them; with `dequantize` or `trainable:
 * "all"` they are decoded to 32 bits, with `quantize` decoded and quantized again in Hugging Face's layout. `model.notes` says which.
 *
 * On a GPU, plain weights of a frozen model whose numbers all are 16-bit floats lie there as such, which changes no result: see
 * `weights` in the options.
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
  if (isGgufPath(folder)) return await loadGguf(device, folder, options);
  folder = await resolveModel(folder);
  const { json, path } = await readConfig(folder);
  const blueprint = blueprintOf(json, path);
  using source = await openCheckpoint(folder);
  const names = findWeights(source, blueprint, folder);
  const integers = readIntegerConfig(json, path);
  const saysFour = !integers && saysFourBit(json, path);
  checkQuantized(source, names, integers, saysFour, folder, options);
  const wantsSteps = isInteger(options.quantize) && namesSteps(json);
  using steps = wantsSteps ? await openSteps(folder) : null;
  const onSteps = steps?.fits(options.quantize, options.blockSize) ?? false;
  const read = async (name: string): Promise<Stored> => {
    const own = names.get(name)!;
    if (!onSteps || !steps!.has(name)) {
      return await readWeight(source, own, name.replace(/\.weight$/, ""), integers);
    }
    const { shape: [rows, columns], transposed } = blueprint.weights.get(name)!;
    const numbers = await source.readFloats(own);
    return transposed
      ? await steps!.put(name, turned(numbers, rows, columns), [columns, rows])
      : await steps!.put(name, numbers, [rows, columns]);
  };
  // What lies on no steps was plain.
  const asked = onSteps ? { ...options, quantize: undefined, blockSize: undefined } : options;
  const report = new HalvesReport();
  const weights = await placeAll(device, blueprint.weights, read, asked, report);
  const model = blueprint.create(device, json, weights);
  const rounded = integers ? await roundInputs(model, source, names, integers) : [];
  model.tokenizer = await tokenizerIn(folder);
  model.notes = [...rounded, ...report.notes(asked)];
  if (wantsSteps && !onSteps) {
    const where = steps ? `on the steps of ${steps.text}` : `on steps that "${STEPS_FILE}" has`;
    const what = steps ? "ask for those" : "put that file into the folder";
    const note =
      `The weights lie ${where}, and were rounded once more: ${what} to have the numbers of training.`;
    model.notes = [...model.notes, note];
  }
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
