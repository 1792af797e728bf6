import { tensor } from "../../../core/tensor.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { ggufBytes, type TestTensor, type Value } from "../files/gguf_bytes.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;
const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** Parts of Hugging Face's names and llama.cpp's, in the order in which they are replaced. */
const NAMES: readonly (readonly [string, string])[] = [
  ["model.embed_tokens", "token_embd"],
  ["model.norm", "output_norm"],
  ["lm_head", "output"],
  ["model.layers", "blk"],
  ["self_attn.o_proj", "attn_output"],
  ["self_attn.q_norm", "attn_q_norm"],
  ["self_attn.k_norm", "attn_k_norm"],
  ["self_attn.q_proj", "attn_q"],
  ["self_attn.k_proj", "attn_k"],
  ["self_attn.v_proj", "attn_v"],
  ["mlp.gate_proj", "ffn_gate"],
  ["mlp.up_proj", "ffn_up"],
  ["mlp.down_proj", "ffn_down"],
  ["input_layernorm", "attn_norm"],
  ["post_attention_layernorm", "ffn_norm"],
];

/** Rows as llama.cpp's converter puts them: `permute` of its convert_hf_to_gguf.py. */
function permute(numbers: Float32Array, rows: number, headSize: number): Float32Array {
  const result = new Float32Array(numbers.length);
  const width = numbers.length / rows;
  for (let row = 0; row < rows; row++) {
    const inHead = row % headSize;
    const half = headSize / 2;
    const to = row - inHead + (inHead < half ? 2 * inHead : 2 * (inHead - half) + 1);
    result.set(numbers.subarray(row * width, (row + 1) * width), to * width);
  }
  return result;
}

type Model = { metadata: [string, Value][]; tensors: TestTensor[] };

/** A golden model as llama.cpp would convert it, in f32. */
async function convert(name: string): Promise<Model> {
  const json = JSON.parse(await Deno.readTextFile(`${GOLDEN}${name}/config.json`)) as Json;
  const own = json.model_type as string;
  const [heads, width] = [json.num_attention_heads as number, json.hidden_size as number];
  const headSize = json.head_dim as number ?? width / heads;
  const u32 = (key: string, field: string): [string, Value] => [
    `${own}.${key}`,
    { u32: json[field] as number },
  ];
  const metadata: [string, Value][] = [
    ["general.architecture", { string: own }],
    u32("block_count", "num_hidden_layers"),
    u32("context_length", "max_position_embeddings"),
    u32("embedding_length", "hidden_size"),
    u32("feed_forward_length", "intermediate_size"),
    u32("attention.head_count", "num_attention_heads"),
    u32("attention.head_count_kv", "num_key_value_heads"),
    [`${own}.attention.key_length`, { u32: headSize }],
    [`${own}.attention.layer_norm_rms_epsilon`, { f32: json.rms_norm_eps as number }],
    [`${own}.rope.freq_base`, { f32: (json.rope_parameters as Json).rope_theta as number }],
  ];
  using source = await SafetensorsFile.open(`${GOLDEN}${name}/model.safetensors`);
  const tensors: TestTensor[] = [];
  for (const [key, { shape }] of source.entries) {
    let numbers: Float32Array = await source.readFloats(key);
    if (own === "llama" && /[qk]_proj/.test(key)) numbers = permute(numbers, shape[0], headSize);
    const renamed = NAMES.reduce((text, [from, to]) => text.replace(from, to), key);
    tensors.push({ name: renamed, type: 0, shape, data: new Uint8Array(numbers.slice().buffer) });
  }
  return { metadata, tensors };
}

let files = 0;

async function write(model: Model): Promise<string> {
  const path = `${folder}/${files++}.gguf`;
  await Deno.writeFile(path, ggufBytes(model));
  return path;
}

for (const name of ["llama", "llama-tied", "qwen2", "qwen3"]) {
  Deno.test(`${name} as GGUF is the model of its folder`, async () => {
    const path = await write(await convert(name));
    const [whole, model] = [await loadModel(device, GOLDEN + name), await loadModel(device, path)];
    const { initializerRange: _, ...config } = model.config;
    assertEquals({ ...config, initializerRange: whole.config.initializerRange }, whole.config);
    using golden = await SafetensorsFile.open(`${GOLDEN}${name}/expected.safetensors`);
    const { shape } = golden.entries.get("input_ids")!;
    const ids = tensor(device, new Int32Array((await golden.read("input_ids")).buffer), shape);
    const logits = await model.forward(ids).read();
    assertEquals(logits, await whole.forward(ids).read());
    assertRelativeError(logits, await golden.readFloats("logits"), 1e-5);
    assertEquals(model.notes.length, 1);
    assert(model.notes[0].startsWith("The model has no tokenizer: Cannot use"), model.notes[0]);
    model.dispose();
    whole.dispose();
  });
}

Deno.test("weights are quantized in Hugging Face's order of rows", async () => {
  const path = await write(await convert("llama"));
  const options = { quantize: "nf4", doubleQuant: true } as const;
  const whole = await loadModel(device, `${GOLDEN}llama`, options);
  const model = await loadModel(device, path, options);
  const ids = tensor(device, Int32Array.of(5, 6, 7, 8), [1, 4]);
  assertEquals(await model.forward(ids).read(), await whole.forward(ids).read());
  model.dispose();
  whole.dispose();
});

Deno.test("notes say what was decoded and what was quantized again", async () => {
  const { metadata, tensors } = await convert("llama");
  // Zero blocks: only their types matter here.
  const stored = tensors.map((own) => {
    const size = own.shape.reduce<number>((product, length) => product * Number(length), 1);
    if (own.name === "token_embd.weight") {
      return { ...own, type: 8, data: new Uint8Array(size / 32 * 34) };
    }
    return own.name.includes("ffn_up")
      ? { ...own, type: 2, data: new Uint8Array(size / 32 * 18) }
      : own;
  });
  const path = await write({ metadata, tensors: stored });
  const kept = await loadModel(device, path);
  assertEquals(kept.notes.slice(1).sort(), [
    "1 weight stored as Q8_0: decoded to f32",
    "2 weights stored as Q4_0: kept",
  ]);
  const plain = await loadModel(device, path, { dequantize: true });
  assertEquals(plain.notes.slice(1).sort(), [
    "1 weight stored as Q8_0: decoded to f32",
    "2 weights stored as Q4_0: decoded to f32",
  ]);
  const model = await loadModel(device, path, { quantize: "nf4" });
  assertEquals(model.notes.slice(1).sort(), [
    "1 weight stored as Q8_0: decoded to f32",
    "2 weights stored as Q4_0: decoded and quantized to nf4",
  ]);
  for (const one of [kept, plain, model]) one.dispose();
});

Deno.test("a GGUF file that is not such a model is refused with a reason", async () => {
  const good = await convert("llama");
  const refuses = async (
    change: Partial<Model> & { more?: [string, Value] },
    type: ErrorConstructor,
    text: string,
  ) => {
    const { more, ...parts } = change;
    const model = { ...good, ...parts };
    const metadata = more
      ? [...model.metadata.filter(([key]) => key !== more[0]), more]
      : model.metadata;
    const path = await write({ ...model, metadata });
    await assertRejects(() => loadModel(device, path), type, text);
  };
  const { tensors } = good;
  const extra: TestTensor = { name: "blk.0.ffn_gate_inp.weight", type: 0, shape: [1], data: W };
  await refuses({ more: ["general.architecture", { string: "bert" }] }, TypeError, 'is "bert", wa');
  await refuses({ more: ["general.type", { string: "adapter" }] }, TypeError, 'is "adapter"');
  await refuses({ more: ["split.count", { u16: 3 }] }, TypeError, "llama-gguf-split --merge");
  await refuses({ more: ["llama.expert_count", { u32: 8 }] }, TypeError, "is 8, wanted a model w");
  await refuses({ more: ["llama.block_count", { string: "2" }] }, TypeError, 'is "2", wanted a wh');
  await refuses({ more: ["llama.rope.dimension_count", { u32: 8 }] }, TypeError, "8, wanted 16");
  await refuses({ more: ["llama.rope.scaling.type", { string: "x" }] }, TypeError, '"linear" or');
  await refuses({ tensors: [...tensors, extra] }, RangeError, "1 tensors that such a model does");
  const without = tensors.filter(({ name }) => name !== "blk.1.attn_k.weight");
  await refuses({ tensors: without }, RangeError, "model.layers.1.self_attn.k_proj.weight");
  const headless = tensors.filter(({ name }) => name !== "token_embd.weight");
  await refuses({ tensors: headless }, RangeError, 'no matrix "token_embd.weight"');
  const table = { ...extra, name: "rope_freqs.weight" };
  await refuses({ tensors: [...tensors, table] }, TypeError, "is not Llama 3's table");
  const broken = tensors.map((own) => {
    if (own.name !== "blk.1.ffn_up.weight") return own;
    const numbers = new Float32Array(own.data.slice().buffer);
    numbers[7] = NaN;
    return { ...own, data: new Uint8Array(numbers.buffer) };
  });
  await refuses({ tensors: broken }, RangeError, 'mlp.up_proj.weight": number 7 is NaN');
});

/** The bytes of one f32. */
const W = new Uint8Array(Float32Array.of(1).buffer);

/** The table of llama.cpp's converter: wave lengths below 2,048 stay, those above 8,192 are stretched by 8. */
function llama3Table(theta: number): Float32Array {
  return Float32Array.from({ length: 8 }, (_, i) => {
    const waveLength = 2 * Math.PI * theta ** (2 * i / 16);
    if (waveLength < 8192 / 4) return 1;
    if (waveLength > 8192) return 8;
    const smooth = (8192 / waveLength - 1) / (4 - 1);
    return 1 / ((1 - smooth) / 8 + smooth);
  });
}

Deno.test("scaled positions come from the metadata, and Llama 3's from their table", async () => {
  const { metadata, tensors } = await convert("llama");
  const scalingOf = async (more: [string, Value][], table?: Float32Array) => {
    const extra: TestTensor[] = table
      ? [{
        name: "rope_freqs.weight",
        type: 0,
        shape: [8],
        data: new Uint8Array(table.slice().buffer),
      }]
      : [];
    const own = more.map(([key]) => key);
    const kept = metadata.filter(([key]) => !own.includes(key));
    const all = { metadata: [...kept, ...more], tensors: [...tensors, ...extra] };
    const model = await loadModel(device, await write(all));
    model.dispose();
    return model.configJson.rope_scaling;
  };
  const [key, theta] = ["llama.rope.scaling", "llama.rope.freq_base"];
  assertEquals(await scalingOf([]), null);
  assertEquals(await scalingOf([[`${key}.type`, { string: "none" }]]), null);
  const linear: [string, Value][] = [
    [`${key}.type`, { string: "linear" }],
    [`${key}.factor`, { f32: 2 }],
  ];
  assertEquals(await scalingOf(linear), { rope_type: "linear", factor: 2 });
  const yarn: [string, Value][] = [
    [`${key}.type`, { string: "yarn" }],
    [`${key}.factor`, { f32: 4 }],
    [`${key}.original_context_length`, { u32: 32 }],
  ];
  assertEquals(await scalingOf(yarn), {
    rope_type: "yarn",
    factor: 4,
    original_max_position_embeddings: 32,
  });
  assertEquals(await scalingOf([[theta, { f32: 500_000 }]], llama3Table(500_000)), {
    rope_type: "llama3",
    factor: 8,
    low_freq_factor: 1,
    high_freq_factor: 4,
    original_max_position_embeddings: 8192,
  });
  await assertRejects(
    () => scalingOf([], llama3Table(500_000)),
    TypeError,
    "is not Llama 3's table",
  );
});
