// deno-lint-ignore-file camelcase -- the names are those of config.json
import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { addLora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { GgufFile } from "../../../train/files/gguf.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { type Json, Tokenizer } from "../../../train/files/tokenizer.ts";
import { saveGguf, type SaveGgufOptions } from "../../../train/models/gguf_export.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  relativeError,
} from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;
const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

let files = 0;

/** Writes a model and reads it again. */
async function again(model: LanguageModel, options?: SaveGgufOptions): Promise<LanguageModel> {
  const path = `${folder}/${files++}.gguf`;
  await saveGguf(model, path, options);
  return await loadModel(device, path);
}

async function logitsOf(model: LanguageModel, ids: Int32Array): Promise<Float32Array> {
  const given = tensor(device, ids, [1, ids.length]);
  using logits = device.scope(() => noGrad(() => model.forward(given)));
  return await logits.read() as Float32Array;
}

const IDS = Int32Array.from({ length: 32 }, (_, i) => (7 * i + 3) % 200);

for (const name of ["llama", "llama-tied", "qwen2", "qwen3"]) {
  Deno.test(`${name}: a GGUF file of the model is the model`, async () => {
    const model = await loadModel(device, GOLDEN + name);
    const wanted = await logitsOf(model, IDS);
    const f32 = await again(model, { type: "f32" });
    const { initializerRange: _, ...config } = f32.config;
    assertEquals({ ...config, initializerRange: model.config.initializerRange }, model.config);
    for (const key of ["bos_token_id", "eos_token_id", "pad_token_id"]) {
      assertEquals(f32.configJson[key], model.configJson[key] ?? null, key);
    }
    assertEquals(await logitsOf(f32, IDS), wanted);
    for (const [type, bound] of [["f16", 2e-3], ["q8_0", 5e-2], ["q4_0", 0.5]] as const) {
      const rounded = await again(model, { type });
      const error = relativeError(await logitsOf(rounded, IDS), wanted);
      assert(error > 0 && error < bound, `${type}: ${error}`);
      rounded.dispose();
    }
    f32.dispose();
    model.dispose();
  });
}

Deno.test("golden logits of transformers survive the way through F32", async () => {
  const model = await loadModel(device, `${GOLDEN}llama`);
  const f32 = await again(model, { type: "f32" });
  using golden = await SafetensorsFile.open(`${GOLDEN}llama/expected.safetensors`);
  const { shape } = golden.entries.get("input_ids")!;
  const ids = tensor(device, new Int32Array((await golden.read("input_ids")).buffer), shape);
  const wanted = await golden.readFloats("logits");
  assertRelativeError(await f32.forward(ids).read(), wanted, 1e-5);
});

Deno.test("types by tensor: norms and biases in F32, the output layer in Q8_0 beside Q4_0", async () => {
  const typesOf = async (name: string, type: "q4_0" | "f16") => {
    const path = `${folder}/${files++}.gguf`;
    await saveGguf(await loadModel(device, GOLDEN + name), path, { type });
    using file = await GgufFile.open(path);
    const of = (own: string) => file.entries.get(own)?.dtype;
    return [
      ...["token_embd.weight", "output.weight", "output_norm.weight"].map(of),
      ...["blk.1.attn_q.weight", "blk.1.attn_q.bias", "blk.1.ffn_down.weight"].map(of),
      file.metadata.get("general.file_type"),
    ];
  };
  const none = undefined;
  assertEquals(
    await typesOf("llama", "q4_0"),
    ["Q4_0", "Q8_0", "F32", "Q4_0", none, "Q4_0", 2],
  );
  // Tied, with biases, and rows of 144 numbers, which blocks of 32 do not divide.
  assertEquals(
    await typesOf("qwen2", "q4_0"),
    ["Q8_0", none, "F32", "Q4_0", "F32", "F16", 2],
  );
  assertEquals(await typesOf("llama", "f16"), ["F16", "F16", "F32", "F16", none, "F16", 1]);
});

const TINY: Json = {
  model_type: "llama",
  vocab_size: 320,
  hidden_size: 64,
  intermediate_size: 96,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 64,
  initializer_range: 0.2,
};

Deno.test("Mistral, biases and stretched positions are those of the model", async () => {
  const llama3 = {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  };
  const yarn = { rope_type: "yarn", factor: 4, original_max_position_embeddings: 16 };
  for (
    const more of [
      { model_type: "mistral", sliding_window: 48 },
      { attention_bias: true, mlp_bias: true },
      { rope_theta: 500_000, rope_scaling: llama3 },
      { rope_scaling: { rope_type: "linear", factor: 2 } },
      { rope_scaling: { rope_type: "dynamic", factor: 2 } },
      { rope_scaling: yarn },
    ] as Json[]
  ) {
    const model = randomModel(device, { ...TINY, ...more });
    for (const [, module] of model.modules()) {
      for (const [name, own] of module.tensors()) {
        if (name === "bias") device.write(own, randomNumbers(own.size, 4));
      }
    }
    const read = await again(model, { type: "f32" });
    assertEquals(read.config.contextLength, model.config.contextLength);
    const [found, wanted] = [await logitsOf(read, IDS), await logitsOf(model, IDS)];
    assertRelativeError(found, wanted, more.rope_scaling === llama3 ? 1e-5 : 0);
    read.dispose();
    model.dispose();
  }
});

Deno.test("a quantized base is decoded, and a merged adapter is in it", async () => {
  const model = await loadModel(device, `${GOLDEN}llama`, { quantize: "nf4" });
  const lora = addLora(model, { r: 4 });
  for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 0.05));
  const path = `${folder}/adapter.gguf`;
  await assertRejects(
    () => saveGguf(model, path),
    TypeError,
    'found an adapter on "model.layers.0.self_attn.q_proj", wanted none; call mergeAdapter first',
  );
  const beside = await logitsOf(model, IDS);
  mergeAdapter(model);
  const merged = await logitsOf(model, IDS);
  assertRelativeError(merged, beside, 1e-5);
  assertEquals(await logitsOf(await again(model, { type: "f32" }), IDS), merged);
  const base = await loadModel(device, `${GOLDEN}llama`, { quantize: "nf4" });
  const decoded = await again(base, { type: "f32" });
  assertRelativeError(await logitsOf(decoded, IDS), await logitsOf(base, IDS), 1e-5);
  assertEquals(
    Array.from(Deno.readDirSync(folder)).some(({ name }) => name === "adapter.gguf"),
    false,
  );
});

Deno.test("the tokenizer and its chat template come along", async () => {
  const model = randomModel(device, TINY);
  const json = trainBpe(["a cat, a bat"], { vocabSize: 262, specialTokens: ["<end>"] });
  const template = "{% for message in messages %}{{ message.content }}{% endfor %}";
  model.tokenizer = new Tokenizer(json, {
    config: { eos_token: "<end>", chat_template: template },
  });
  const { tokenizer, notes } = await again(model, { type: "q8_0" });
  assertEquals(notes, [
    "2 weights stored as Q8_0: decoded to f32",
    "14 weights stored as Q8_0: kept",
  ]);
  assertEquals(tokenizer!.encode("a cat<end>"), model.tokenizer.encode("a cat<end>"));
  assertEquals([tokenizer!.eosId, tokenizer!.bosId], [model.tokenizer.eosId, null]);
  assertEquals(tokenizer!.config.chat_template, template);
  const path = `${folder}/SmolLM-1.gguf`;
  await saveGguf(model, path);
  using file = await GgufFile.open(path);
  assertEquals(file.metadata.get("general.name"), "SmolLM-1");
  assertEquals((file.metadata.get("tokenizer.ggml.tokens") as string[]).length, 320);
});

Deno.test("what llama.cpp does not have is refused", async () => {
  const refuses = (json: Json, type: ErrorConstructor, text: string) =>
    assertRejects(
      () => saveGguf(randomModel(device, { ...TINY, ...json }), `${folder}/no.gguf`),
      type,
      text,
    );
  const gpt2 = { model_type: "gpt2", n_embd: 64, n_head: 4, n_layer: 1, n_positions: 32 };
  await refuses(gpt2, TypeError, 'architecture "gpt2", wanted one of llama, mistral, qwen2, qwen3');
  const qwen3 = { model_type: "qwen3", head_dim: 16, attention_bias: true };
  await refuses(qwen3, TypeError, "a Qwen3 with biases in its attention");
  const yarn = { rope_type: "yarn", factor: 4, beta_fast: 16 };
  await refuses({ rope_scaling: yarn }, TypeError, "found YaRN with betaFast 16, wanted 32");
  const model = randomModel(device, TINY);
  const wrong = { type: "q5_k" as "q4_0" };
  await assertRejects(
    () => saveGguf(model, `${folder}/no.gguf`, wrong),
    RangeError,
    'found the type "q5_k", wanted one of f32, f16, q8_0, q4_0',
  );
  const [, norm] = [...model.modules()].find(([path]) => path === "model.norm")!;
  for (const [, own] of norm.tensors()) device.write(own, new Float32Array(64).fill(NaN));
  await assertRejects(() => saveGguf(model, `${folder}/no.gguf`), RangeError, '"output_norm.weig');
  const names = Array.from(Deno.readDirSync(folder), ({ name }) => name);
  assertEquals(names.filter((name) => name.startsWith("no.gguf")), []);
});
