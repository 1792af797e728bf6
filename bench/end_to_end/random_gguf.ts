/**
 * Models with random weights in llama.cpp's files.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { trainBpe } from "../../train/data/bpe.ts";
import { type Json, Tokenizer } from "../../train/files/tokenizer.ts";
import { saveGguf } from "../../train/models/gguf_export.ts";
import { drawModel } from "./random_model.ts";

/** Bytes, and the end of a text. */
const TOKENS = 257;

/**
 * Writes a model whose large matrices are in Q4_0; its tokenizer knows bytes only, and its vocabulary has room for them.
 *
 * @param device where the weights are drawn
 * @param json the model's config.json
 * @param path where the file goes
 */
export async function writeRandomGguf(device: Device, json: Json, path: string): Promise<void> {
  const model = await drawModel(device, {
    ...json,
    vocab_size: Math.max(TOKENS, Number(json.vocab_size)),
  });
  try {
    model.tokenizer = new Tokenizer(trainBpe([], { vocabSize: TOKENS, specialTokens: ["<end>"] }), {
      config: { "eos_token": "<end>" },
    });
    await saveGguf(model, path, { type: "q4_0" });
  } finally {
    model.dispose();
  }
}
