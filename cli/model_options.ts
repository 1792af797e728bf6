/**
 * The options of every command that opens a model, and opening it, from a folder or from the Hugging Face hub.
 *
 * @module
 */
import { z } from "zod";
import type { Device } from "../core/device.ts";
import { loadAdapter } from "../train/adapters/peft.ts";
import { type DownloadProgress, resolveModel } from "../train/files/hub.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel, type LoadOptions, type QuantizationScheme } from "../train/models/load.ts";
import type { Tokenizer } from "../train/files/tokenizer.ts";
import { LateBar } from "./late_bar.ts";

const GROUP = "Quantization";

/** The types that files in bitsandbytes' format can have. */
export const FOUR_BIT_TYPE: z.ZodEnum<{ nf4: "nf4"; fp4: "fp4" }> = z.enum(["nf4", "fp4"]);

/** The types that weights can be quantized to. */
export const WEIGHT_TYPES = ["nf4", "fp4", "int8", "int4", "int3", "int2"] as const;

/** Which model, and in how many bits. */
export const MODEL_OPTIONS = {
  model: z.string().min(1).meta({
    description:
      "a model folder (config.json, model.safetensors, tokenizer.json), a .gguf file, or org/name of " +
      "the Hugging Face hub, or org/name@revision",
    placeholder: "FOLDER",
  }),
  quantize: z.enum(WEIGHT_TYPES).optional()
    .meta({ description: "quantize the linear layers to this type while loading", group: GROUP }),
  doubleQuant: z.boolean().default(false)
    .meta({ description: "quantize the scales too (with --quantize)", group: GROUP }),
  dequantize: z.boolean().default(false).meta({
    description: "decode weights that are stored quantized (GGUF, bitsandbytes) to 32 bits",
    group: GROUP,
  }),
  weights: z.enum(["f16", "f32"]).optional().meta({
    description:
      "what plain weights of a frozen model lie in; on a GPU f16 where that loses nothing",
    group: GROUP,
  }),
  blockSize: z.int().min(32).max(4096).optional()
    .meta({
      description: "weights that share a scale (with --quantize); 64, for int8 a row",
      group: GROUP,
    }),
};

/** An adapter on the model, for the commands that can use one. */
export const ADAPTER_OPTION = {
  adapter: z.string().min(1).optional().meta({
    description: "a LoRA adapter for the model: a folder that nibble or PEFT wrote, or org/name",
    placeholder: "FOLDER",
  }),
};

/** What `MODEL_OPTIONS` and `ADAPTER_OPTION` give. */
export interface ModelChoice {
  readonly model: string;
  readonly quantize?: QuantizationScheme;
  readonly doubleQuant: boolean;
  readonly blockSize?: number;
  readonly dequantize?: boolean;
  readonly weights?: "f16" | "f32";
  readonly adapter?: string;
}

/**
 * The folder of what a user named: itself, or where its download is.
 *
 * @param name a folder, or `org/name` or `org/name@revision` of the Hugging Face hub
 * @param weights whether the weights are needed too
 */
export async function modelFolder(name: string, weights = true): Promise<string> {
  // On stderr: stdout is for what the command finds out. There is no bar where nothing has to be fetched.
  using bar = new LateBar({ label: `Downloading ${name}, MB`, json: true });
  const megabytes = (bytes: number) => Math.ceil(bytes / 1e6);
  const onProgress = ({ file, done, total }: DownloadProgress) =>
    bar.update(megabytes(done), megabytes(total), { file });
  return await resolveModel(name, { weights, onProgress });
}

/** What the options say of how weights are kept. */
export function loadOptionsOf(
  { quantize, doubleQuant, blockSize, dequantize, weights }: Omit<ModelChoice, "model">,
): LoadOptions {
  return { quantize, doubleQuant, blockSize, dequantize, weights };
}

/** Loads the model that the options name, and puts the adapter on it if they name one. */
export async function openModel(device: Device, choice: ModelChoice): Promise<LanguageModel> {
  const { adapter } = choice;
  const model = await loadModel(device, await modelFolder(choice.model), loadOptionsOf(choice));
  if (adapter !== undefined) await loadAdapter(model, await modelFolder(adapter));
  return model;
}

/** Loads a model with all weights in 32 bits, whatever they are stored in: for commands that choose what they become. */
export async function openPlain(device: Device, name: string): Promise<LanguageModel> {
  return await loadModel(device, await modelFolder(name), { dequantize: true, weights: "f32" });
}

/** The model's tokenizer; `what` says what it is wanted for, such as `calibrate`. */
export function tokenizerOf({ tokenizer }: LanguageModel, what: string): Tokenizer {
  if (tokenizer) return tokenizer;
  throw new TypeError(
    `Cannot ${what}: the model has no tokenizer.json, wanted its own tokenizer in its folder`,
  );
}
