/** Models and adapters that the tests of this folder share. */
import type { Tensor } from "../../../core/tensor.ts";
import { tensor } from "../../../core/tensor.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { randomModel } from "../../../train/models/load.ts";
import { device } from "../../device.ts";

/** The folder of the golden models, with a slash at its end. */
export const GOLDEN = new URL("../../golden/", import.meta.url).pathname;

const TINY: Json = {
  "model_type": "llama",
  "vocab_size": 96,
  "hidden_size": 32,
  "intermediate_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
};

/** A small model with random weights. */
export function tinyModel(trainable?: "all"): LanguageModel {
  return randomModel(device, TINY, { seed: 3, trainable });
}

/** i32 [2, 6]. */
export function someIds(): Tensor {
  return tensor(device, Int32Array.from({ length: 12 }, (_, i) => (7 * i + 3) % 96), [2, 6]);
}

/** An i32 tensor of a golden file. */
export async function goldenInts(folder: string, name: string): Promise<Tensor> {
  using file = await SafetensorsFile.open(`${folder}/expected.safetensors`);
  const bytes = await file.read(name);
  return tensor(device, new Int32Array(bytes.buffer), file.entries.get(name)!.shape);
}

/** A copy of the golden adapter of llama in which one thing is changed: keys of its configuration, or its weights. */
export async function changedAdapter(
  config: Record<string, unknown>,
  weights?: (bytes: Uint8Array) => Uint8Array,
): Promise<string> {
  const from = `${GOLDEN}llama/lora/start`;
  const folder = await Deno.makeTempDir();
  const json = JSON.parse(await Deno.readTextFile(`${from}/adapter_config.json`));
  await Deno.writeTextFile(
    `${folder}/adapter_config.json`,
    JSON.stringify({ ...json, ...config }),
  );
  const bytes = await Deno.readFile(`${from}/adapter_model.safetensors`);
  await Deno.writeFile(
    `${folder}/adapter_model.safetensors`,
    weights ? weights(bytes) : bytes,
  );
  return folder;
}
