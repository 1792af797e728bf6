// deno-lint-ignore-file camelcase -- the names are those of config.json
/**
 * The shapes of the models that are measured whole. Their weights are random: speed does not depend on them.
 *
 * @module
 */
import type { Json } from "../../train/files/tokenizer.ts";

/** A shape: that of the model it is named after, and a tiny one that takes the same code path. */
export interface ModelShape {
  /** What rows call it. */
  readonly name: string;
  /** The content of its config.json. */
  readonly full: Json;
  /** The same for tests and software adapters. */
  readonly tiny: Json;
}

const LLAMA_KIND = { model_type: "llama", rms_norm_eps: 1e-5, initializer_range: 0.02 };

const TINY_LLAMA = {
  ...LLAMA_KIND,
  vocab_size: 128,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  max_position_embeddings: 64,
};

/** SmolLM2-135M: 30 layers, grouped queries, tied embeddings. */
export const SMOLLM2: ModelShape = {
  name: "smollm2",
  full: {
    ...LLAMA_KIND,
    vocab_size: 49_152,
    hidden_size: 576,
    intermediate_size: 1536,
    num_hidden_layers: 30,
    num_attention_heads: 9,
    num_key_value_heads: 3,
    max_position_embeddings: 8192,
    rope_theta: 100_000,
    tie_word_embeddings: true,
  },
  tiny: { ...TINY_LLAMA, num_key_value_heads: 2, tie_word_embeddings: true },
};

/** Llama-2-7B: 32 layers, an output layer of its own, a checkpoint of 16-bit floats. */
export const LLAMA_7B: ModelShape = {
  name: "llama7b",
  full: {
    ...LLAMA_KIND,
    vocab_size: 32_000,
    hidden_size: 4096,
    intermediate_size: 11_008,
    num_hidden_layers: 32,
    num_attention_heads: 32,
    max_position_embeddings: 4096,
    tie_word_embeddings: false,
    torch_dtype: "float16",
  },
  tiny: { ...TINY_LLAMA, tie_word_embeddings: false, torch_dtype: "float16" },
};

/** GPT-2's architecture in sizes that are trained from random weights. */
function gptShape(
  name: string,
  full: {
    vocab_size: number;
    n_embd: number;
    n_layer: number;
    n_head: number;
    n_positions: number;
  },
): ModelShape {
  return {
    name,
    full: { model_type: "gpt2", ...full },
    tiny: {
      model_type: "gpt2",
      vocab_size: 64,
      n_embd: 32,
      n_layer: 1,
      n_head: 2,
      n_positions: 64,
    },
  };
}

/** A GPT of 8 layers and 512 channels: 30 million parameters. */
export const GPT_D512: ModelShape = gptShape("gpt-d512", {
  vocab_size: 8192,
  n_embd: 512,
  n_layer: 8,
  n_head: 8,
  n_positions: 256,
});

/** A GPT of 2 layers and 64 channels, whose steps are so small that launches are what they cost. */
export const GPT_D64: ModelShape = gptShape("gpt-d64", {
  vocab_size: 256,
  n_embd: 64,
  n_layer: 2,
  n_head: 4,
  n_positions: 32,
});
