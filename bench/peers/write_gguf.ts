/**
 * Writes a GGUF file of SmolLM2-135M's shape with random weights, for peers that read such files.
 *
 * @module
 */
import { openDevice } from "../../core/device.ts";
import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { saveGguf } from "../../train/models/gguf_export.ts";
import { drawModel } from "../end_to_end/random_model.ts";
import { SMOLLM2 } from "../end_to_end/shapes.ts";

/**
 * Writes the file; its tokenizer knows bytes only.
 *
 * @param path where it goes
 * @param isTiny the shape that tests use
 */
export async function writeSmolLm2(path: string, isTiny = false): Promise<void> {
  using device = await openDevice();
  const json = isTiny ? { ...SMOLLM2.tiny, "vocab_size": 512 } : SMOLLM2.full;
  const model = await drawModel(device, json);
  model.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
    config: { "eos_token": "<end>" },
  });
  await saveGguf(model, path, { type: "q4_0" });
}

if (import.meta.main) await writeSmolLm2(Deno.args[0] ?? "smollm2.gguf");
