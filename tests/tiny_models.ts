/** Models of random weights that several tests quantize, a text for them, and what they make of it. */
import { noGrad } from "../core/autograd.ts";
import { tensor } from "../core/tensor.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { device } from "./device.ts";

/** The content of a config.json: grouped queries. */
export const LLAMA = {
  "model_type": "llama",
  "vocab_size": 96,
  "hidden_size": 48,
  "intermediate_size": 72,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "num_key_value_heads": 2,
  "max_position_embeddings": 64,
};

/** The same of GPT-2's kind: biases, and weights that lie the other way. */
export const GPT2 = {
  "model_type": "gpt2",
  "vocab_size": 96,
  "n_embd": 48,
  "n_layer": 2,
  "n_head": 4,
  "n_positions": 64,
};

/** Tokens, all over the vocabulary. */
export const IDS = Int32Array.from({ length: 128 }, (_, i) => (7 * i * i + i) % 96);

/** The same, as calibration takes them. */
export const TEXT = { ids: IDS, window: 32 };

/** The logits of the first tokens. */
export async function logits(model: LanguageModel): Promise<Float32Array> {
  const ids = tensor(device, IDS.subarray(0, 32), [1, 32]);
  return await noGrad(() => model.forward(ids)).read() as Float32Array;
}

/** ‖after − before‖² / ‖before‖². */
export function moved(before: Float32Array, after: Float32Array): number {
  const size = before.reduce((sum, x) => sum + x ** 2, 0);
  return after.reduce((sum, x, i) => sum + (x - before[i]) ** 2, 0) / size;
}

/** Makes a channel of what a normalization gives so many times as large. */
export async function enlarge(
  model: LanguageModel,
  norm: string,
  channel: number,
  times: number,
): Promise<void> {
  const [[, gain]] = [...new Map(model.modules()).get(norm)!.tensors()];
  const numbers = await gain.read() as Float32Array<ArrayBuffer>;
  numbers[channel] *= times;
  device.write(gain, numbers);
}
