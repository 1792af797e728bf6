/**
 * The options of every command that opens a model, and opening it.
 *
 * @module
 */
import { z } from "zod";
import type { Device } from "../core/device.ts";
import { loadAdapter } from "../train/adapters/peft.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel } from "../train/models/load.ts";

const GROUP = "Quantization";

/** Which model, and in how many bits. */
export const MODEL_OPTIONS = {
  model: z.string().min(1).meta({
    description: "a model folder: config.json, model.safetensors, tokenizer.json",
    placeholder: "FOLDER",
  }),
  quantize: z.enum(["nf4", "fp4"]).optional()
    .meta({ description: "quantize the linear layers to this type while loading", group: GROUP }),
  doubleQuant: z.boolean().default(false)
    .meta({ description: "quantize the scales too (with --quantize)", group: GROUP }),
  blockSize: z.int().min(32).max(4096).optional()
    .meta({ description: "weights that share a scale (with --quantize); 64", group: GROUP }),
};

/** An adapter on the model, for the commands that can use one. */
export const ADAPTER_OPTION = {
  adapter: z.string().min(1).optional().meta({
    description: "a LoRA adapter for the model: a folder that nibble or PEFT wrote",
    placeholder: "FOLDER",
  }),
};

/** What `MODEL_OPTIONS` and `ADAPTER_OPTION` give. */
export interface ModelChoice {
  readonly model: string;
  readonly quantize?: "nf4" | "fp4";
  readonly doubleQuant: boolean;
  readonly blockSize?: number;
  readonly adapter?: string;
}

/** Loads the model that the options name, and puts the adapter on it if they name one. */
export async function openModel(device: Device, choice: ModelChoice): Promise<LanguageModel> {
  const { model: folder, quantize, doubleQuant, blockSize, adapter } = choice;
  const model = await loadModel(device, folder, { quantize, doubleQuant, blockSize });
  if (adapter !== undefined) await loadAdapter(model, adapter);
  return model;
}
