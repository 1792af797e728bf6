/** Models whose linear layers stay in the blocks of their GGUF file. */
import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { GGUF_BLOCKS, type GgufBlockType } from "../../../kernels/quant/gguf_types.ts";
import { addLora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { generateTokens } from "../../../train/eval/generate.ts";
import { Trainer } from "../../../train/loop.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { randomBlocks } from "../../gguf_blocks.ts";
import { f32Bytes, ggufBytes, type TestTensor } from "../files/gguf_bytes.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** ggml's numbers of the types. */
const NUMBERS: Readonly<Record<GgufBlockType, number>> = {
  Q4_0: 2,
  Q4_1: 3,
  Q5_0: 6,
  Q5_1: 7,
  Q8_0: 8,
  Q4_K: 12,
  Q5_K: 13,
  Q6_K: 14,
};

/** Scales that give weights of about the same size: codes times 6-bit scales are larger than codes. */
const SCALES: Readonly<Record<GgufBlockType, number>> = {
  Q4_0: 6e-3,
  Q4_1: 3e-3,
  Q5_0: 3e-3,
  Q5_1: 1e-3,
  Q8_0: 4e-4,
  Q4_K: 1e-4,
  Q5_K: 5e-5,
  Q6_K: 2e-5,
};

/** The types of a block's matrices; half a head has 32 rows, which llama.cpp has in another order. */
const TYPES: readonly (readonly [name: string, rows: number, GgufBlockType, GgufBlockType])[] = [
  ["attn_q", 256, "Q4_0", "Q4_K"],
  ["attn_k", 128, "Q4_1", "Q6_K"],
  ["attn_v", 128, "Q5_0", "Q8_0"],
  ["attn_output", 256, "Q5_1", "Q4_0"],
  ["ffn_gate", 256, "Q8_0", "Q5_K"],
  ["ffn_up", 256, "Q4_K", "Q4_1"],
  ["ffn_down", 256, "Q6_K", "Q5_0"],
];
const WIDTH = 256;
const VOCABULARY = 96;

function floats(name: string, numbers: Float32Array, ...shape: number[]): TestTensor {
  return { name, type: 0, shape, data: f32Bytes(...numbers) };
}

const ones = new Float32Array(WIDTH).fill(1);

/** A Llama of two blocks with a weight of every type. */
async function write(): Promise<string> {
  const tensors: TestTensor[] = [
    floats("token_embd.weight", randomNumbers(VOCABULARY * WIDTH, 1), VOCABULARY, WIDTH),
    floats("output_norm.weight", ones, WIDTH),
  ];
  for (const block of [0, 1]) {
    for (const norm of ["attn_norm", "ffn_norm"]) {
      tensors.push(floats(`blk.${block}.${norm}.weight`, ones, WIDTH));
    }
    for (const [i, [name, rows, ...types]] of TYPES.entries()) {
      const type = types[block];
      const blocks = rows * WIDTH / GGUF_BLOCKS[type].weights;
      const data = randomBlocks(type, blocks, 20 * block + 2 * i, SCALES[type]);
      const own = { type: NUMBERS[type], shape: [rows, WIDTH], data };
      tensors.push({ name: `blk.${block}.${name}.weight`, ...own });
    }
  }
  const u32 = (key: string, value: number) => [`llama.${key}`, { u32: value }] as const;
  const bytes = ggufBytes({
    metadata: [
      ["general.architecture", { string: "llama" }],
      u32("block_count", 2),
      u32("context_length", 64),
      u32("embedding_length", WIDTH),
      u32("feed_forward_length", 256),
      u32("attention.head_count", 4),
      u32("attention.head_count_kv", 2),
      ["llama.attention.layer_norm_rms_epsilon", { f32: 1e-5 }],
      ["llama.rope.freq_base", { f32: 1e4 }],
    ],
    tensors,
  });
  const path = `${folder}/all.gguf`;
  await Deno.writeFile(path, bytes);
  return path;
}

const path = await write();
const ROW = Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % VOCABULARY);
const ids = tensor(device, ROW, [1, 24]);

/** LoRA with B other than 0, the same on every model. */
function withLora(model: LanguageModel) {
  const lora = addLora(model, { r: 4, alpha: 8, seed: 3 });
  for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 0.05));
  return lora;
}

async function both(): Promise<[kept: LanguageModel, plain: LanguageModel]> {
  return [await loadModel(device, path), await loadModel(device, path, { dequantize: true })];
}

Deno.test("every type stays in its blocks, and logits are those of the decoded weights", async () => {
  const [kept, plain] = await both();
  assertEquals(kept.notes.filter((note) => note.endsWith("kept")).length, 8);
  assertEquals(plain.notes.filter((note) => note.endsWith("decoded to f32")).length, 8);
  const decoded = new Map(plain.linearLayers());
  for (const [name, layer] of kept.linearLayers()) {
    assert(layer instanceof QuantizedLinear, name);
    using dense = layer.dense();
    assertEquals(await dense.read(), await decoded.get(name)!.dense().read(), name);
  }
  assertRelativeError(await kept.forward(ids).read(), await plain.forward(ids).read(), 1e-5);
  // 4 to 8 bits and a scale or two, for 32.
  const bytes = (model: LanguageModel) =>
    [...model.linearLayers()].reduce((sum, [, layer]) => sum + layer.weightBytes, 0);
  assert(bytes(kept) < bytes(plain) / 5, `${bytes(kept)} of ${bytes(plain)}`);
  // One token at a time goes through the matrix-vector kernel.
  const options = { maxNewTokens: 12, endTokens: [] };
  const prompt = [[...ROW.subarray(0, 5)]];
  assertEquals(
    await generateTokens(kept, prompt, options),
    await generateTokens(plain, prompt, options),
  );
  kept.dispose();
  plain.dispose();
});

Deno.test("gradients of LoRA over kept weights are those over decoded ones", async () => {
  const gradients: Map<string, Float32Array>[] = [];
  for (const model of await both()) {
    withLora(model);
    backward(model.loss(ids, ids));
    const own = new Map<string, Float32Array>();
    for (const [name, { grad }] of model.parameters()) {
      own.set(name, await grad!.read() as Float32Array);
    }
    gradients.push(own);
    model.dispose();
  }
  assertEquals(gradients[0].size, 2 * 14);
  for (const [name, own] of gradients[0]) {
    assertRelativeError(own, gradients[1].get(name)!, 1e-4, name);
  }
});

Deno.test("LoRA is trained over kept weights as over decoded ones", async () => {
  const labels = Int32Array.of(...ROW.subarray(1), -100);
  const losses: number[][] = [];
  for (const model of await both()) {
    addLora(model, { r: 4, alpha: 8, seed: 3 });
    const options = { steps: 8, batchSize: 1, length: 24, learningRate: 1e-2, seed: 1 };
    using trainer = new Trainer(model, [{ ids: ROW, labels }], options);
    const own: number[] = [];
    for await (const { loss } of trainer.run()) own.push(loss);
    losses.push(own);
    model.dispose();
  }
  assert(losses[0][7] < 0.8 * losses[0][0], losses[0].join());
  assertRelativeError(losses[0], losses[1], 1e-4);
});

Deno.test("kept weights are saved decoded, and an adapter is merged into them", async () => {
  const [kept, plain] = await both();
  await saveModel(kept, `${folder}/decoded`);
  const again = await loadModel(device, `${folder}/decoded`);
  assertEquals(await again.forward(ids).read(), await plain.forward(ids).read());
  withLora(kept);
  const beside = await kept.forward(ids).read();
  mergeAdapter(kept);
  assertRelativeError(await kept.forward(ids).read(), beside, 1e-5);
  for (const model of [kept, plain, again]) model.dispose();
});

Deno.test("all weights are trained in 32 bits, and what cannot be on kept ones says how it can", async () => {
  const all = await loadModel(device, path, { trainable: "all" });
  assertEquals(all.count().trainable, all.count().total);
  all.dispose();
  const kept = await loadModel(device, path);
  await assertRejects(
    async () => void await addLora(kept, { r: 2, init: "pissa", targetModules: ["q_proj"] }),
    TypeError,
    "found its weight in Q4_0, wanted plain numbers to take A and B out of; load the model without quantize, or with dequantize",
  );
  kept.dispose();
  await assertRejects(
    () => loadModel(device, path, { quantize: "nf4", dequantize: true }),
    TypeError,
    "leave one of them out",
  );
});
