/**
 * Models to folders.
 *
 * @module
 */
import { joinPath } from "../nn/module.ts";
import { LinearLayer } from "../nn/linear.ts";
import type { Tensor } from "../../core/tensor.ts";
import { writeFolder, writeWhole } from "../files/output.ts";
import { type TensorData, writeSafetensors } from "../files/safetensors.ts";
import { saveTokenizer } from "../files/tokenizer.ts";
import type { LanguageModel } from "./language_model.ts";

/** How a model is saved. */
export interface SaveModelOptions {
  /** "f32" by default; "f16" halves the size, rounding to nearest. */
  readonly dtype?: "f32" | "f16";
}

/** Every weight by Hugging Face's name. Quantized ones are decoded. */
async function* weightsOf(model: LanguageModel): AsyncGenerator<[string, Float32Array, Tensor]> {
  for (const [path, module] of model.modules()) {
    if (module instanceof LinearLayer) {
      const weight = module.dense();
      yield [joinPath(path, "weight"), await weight.read() as Float32Array, weight];
      const isOwn = [...module.tensors()].some(([, own]) => own === weight);
      if (!isOwn) weight.dispose();
      const { bias } = module;
      if (bias) yield [joinPath(path, "bias"), await bias.read() as Float32Array, bias];
      continue;
    }
    for (const [name, tensor] of module.tensors()) {
      yield [joinPath(path, name), await tensor.read() as Float32Array, tensor];
    }
  }
}

/**
 * Writes a model folder that transformers' `from_pretrained` and `loadModel` read: config.json, model.safetensors and the
 * tokenizer. The folder appears whole or not at all. Adapters are not in it: merge them first, or save them apart.
 *
 * @param model the model
 * @param folder where to; what is there is replaced
 * @param options the data type
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
  { dtype = "f32" }: SaveModelOptions = {},
): Promise<void> {
  const tensors = new Map<string, TensorData>();
  for await (const [name, numbers, { shape }] of weightsOf(model)) {
    const data = dtype === "f16" ? new Float16Array(numbers) : numbers;
    tensors.set(name, { dtype: dtype === "f16" ? "F16" : "F32", shape, data });
  }
  const config = {
    ...model.configJson,
    dtype: dtype === "f16" ? "float16" : "float32",
  } as Record<string, unknown>;
  delete config.quantization_config;
  await writeFolder(folder, async (draft) => {
    await writeWhole(`${draft}/config.json`, `${JSON.stringify(config, null, 2)}\n`);
    await writeSafetensors(`${draft}/model.safetensors`, tensors);
    if (model.tokenizer) await saveTokenizer(model.tokenizer, draft);
  });
}
