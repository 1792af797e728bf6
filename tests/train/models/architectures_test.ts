// deno-lint-ignore-file camelcase -- the names are those of config.json
import type { Json } from "../../../train/files/tokenizer.ts";
import { parseConfig } from "../../../train/models/architectures.ts";
import type { LlamaConfig } from "../../../train/models/llama.ts";
import { assertEquals, assertThrows } from "../../assert.ts";

const SIZES: Json = {
  vocab_size: 64,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  num_key_value_heads: 2,
};

Deno.test("parseConfig() refuses an unknown architecture by name, with the list of those known", () => {
  assertThrows(
    () => parseConfig({ ...SIZES, model_type: "mamba" }, "dir/config.json"),
    TypeError,
    'Cannot read the model\'s configuration "dir/config.json": "model_type" is "mamba", wanted one of the architectures that ' +
      'nibble knows: "gpt2", "llama", "mistral", "qwen2", "qwen3"',
  );
  assertThrows(() => parseConfig(SIZES), TypeError, '"model_type" is nothing');
});

Deno.test("parseConfig() reads what each architecture has of its own", () => {
  const read = (modelType: string, more: Json = {}) =>
    parseConfig({ ...SIZES, model_type: modelType, ...more }) as LlamaConfig;
  const { attentionBias, headNorms, headSize, contextLength } = read("llama");
  assertEquals([attentionBias, headNorms, headSize, contextLength], ["none", false, 16, 2048]);
  assertEquals(read("llama", { attention_bias: true }).attentionBias, "all");
  assertEquals(read("qwen2").attentionBias, "qkv");
  assertEquals([read("qwen3").headNorms, read("qwen3").headSize], [true, 128]);
  assertEquals(read("qwen3", { head_dim: 32 }).headSize, 32);
  assertEquals(read("llama", { head_dim: null, num_key_value_heads: null }).kvHeads, 4);
  assertThrows(
    () => read("mistral", { num_key_value_heads: undefined }),
    TypeError,
    "wanted a divisor of the 4 attention heads",
  );
});

Deno.test("parseConfig() takes a sliding window as the end of the context", () => {
  const context = (modelType: string, more: Json) =>
    parseConfig({ ...SIZES, model_type: modelType, max_position_embeddings: 8192, ...more })
      .contextLength;
  assertEquals(context("mistral", { sliding_window: null }), 8192);
  assertEquals(context("mistral", { sliding_window: 1000 }), 1000);
  assertEquals(context("mistral", { sliding_window: 10_000 }), 8192);
  assertEquals(context("mistral", {}), 4096);
  assertEquals(context("llama", { sliding_window: 5 }), 8192);
  assertEquals(context("qwen2", { sliding_window: 1000 }), 8192);
  assertEquals(context("qwen2", { use_sliding_window: true, sliding_window: 1000 }), 1000);
  const whole = { use_sliding_window: true, sliding_window: 9, layer_types: ["full_attention"] };
  assertEquals(context("qwen3", whole), 8192);
});

Deno.test("parseConfig() reads GPT-2's names, and its defaults", () => {
  const config = parseConfig({ model_type: "gpt2", n_embd: 48, n_head: 4, n_layer: 3 });
  assertEquals(config, {
    modelType: "gpt2",
    vocabSize: 50257,
    hiddenSize: 48,
    intermediateSize: 192,
    layers: 3,
    heads: 4,
    kvHeads: 4,
    headSize: 12,
    normEpsilon: 1e-5,
    contextLength: 1024,
    tiedEmbeddings: true,
    initializerRange: 0.02,
  });
  const refused: [Json, string][] = [
    [{ activation_function: "gelu" }, '"gelu_new" or "gelu_pytorch_tanh"'],
    [{ scale_attn_by_inverse_layer_idx: true }, "wanted false"],
    [{ scale_attn_weights: false }, "wanted true"],
    [{ add_cross_attention: true }, "wanted false"],
    [{ n_head: 5 }, "its attention heads are 153.6 wide, wanted a multiple of 4, at most 256"],
    [{ n_layer: 1e12 }, "wanted at most 10000 layers"],
  ];
  for (const [more, wanted] of refused) {
    assertThrows(() => parseConfig({ model_type: "gpt2", ...more }), TypeError, wanted);
  }
});
