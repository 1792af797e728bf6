// deno-lint-ignore-file camelcase -- the names are those of config.json
/** The shapes of well-known models, for plans without a download. */
import { LLAMA_7B, SMOLLM2 } from "../bench/end_to_end/shapes.ts";
import type { Json } from "../train/files/tokenizer.ts";

const LLAMA_KIND = { model_type: "llama", vocab_size: 32_000, num_attention_heads: 32 };

/** Each as its config.json has it, by the name that `--shape` takes. */
export const PLAN_SHAPES: Readonly<Record<string, Json>> = {
  "smollm2-135m": SMOLLM2.full,
  "tinyllama-1.1b": {
    ...LLAMA_KIND,
    hidden_size: 2048,
    intermediate_size: 5632,
    num_hidden_layers: 22,
    num_key_value_heads: 4,
    max_position_embeddings: 2048,
    tie_word_embeddings: false,
  },
  "llama-2-7b": LLAMA_7B.full,
  "llama-3.1-8b": {
    ...LLAMA_KIND,
    vocab_size: 128_256,
    hidden_size: 4096,
    intermediate_size: 14_336,
    num_hidden_layers: 32,
    num_key_value_heads: 8,
    max_position_embeddings: 131_072,
    tie_word_embeddings: false,
  },
};
