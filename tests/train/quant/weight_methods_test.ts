import { compareSchemes } from "../../../train/eval/compare_schemes.ts";
import { measureSensitivity } from "../../../train/eval/sensitivity.ts";
import { evaluatePerplexity } from "../../../train/eval/perplexity.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { awqLayers } from "../../../train/quant/awq.ts";
import { gptqLayers } from "../../../train/quant/gptq_layers.ts";
import { quantizeLayers, type WeightScheme } from "../../../train/quant/weight_only.ts";
import { readJsonl, readText } from "../../../train/data/dataset.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device } from "../../device.ts";
import { tensor } from "../../../core/tensor.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;

/** Definitions that the model learnt from, a stretch of every fourth. */
async function calibrationIds(model: LanguageModel): Promise<Int32Array> {
  const rows = await readJsonl(`${ASSETS}wordnet/train.jsonl`);
  const some = rows.filter((_, i) => i % 40 === 0) as { prompt: string; answer: string }[];
  const text = some.map(({ prompt, answer }) => prompt + answer).join("\n");
  return model.tokenizer!.encode(text).subarray(0, 8_000);
}

Deno.test("GPTQ, AWQ and HQQ each beat rounding to nearest in INT4, and restore() undoes them", async () => {
  const model = await loadModel(device, `${ASSETS}base`);
  const held = model.tokenizer!.encode((await readText(`${ASSETS}wordnet/heldout.txt`)).text);
  const ids = held.subarray(0, 16_000);
  const measure = async () => (await evaluatePerplexity(model, ids, { window: 256 })).perplexity;
  const text = { ids: await calibrationIds(model), window: 256 };
  const plain = await measure();
  const by = async (quantize: () => Promise<{ restore(): void }>) => {
    const made = await quantize();
    const found = await measure();
    made.restore();
    assertEquals(await measure(), plain);
    return found;
  };
  const rounded = await by(() => quantizeLayers(model, { kind: "int4" }));
  const int8 = await by(() => quantizeLayers(model, { kind: "int8" }));
  assert(int8 < 1.005 * plain, `${int8} in INT8, ${plain} before`);
  assert(rounded > int8, `${rounded} in INT4`);
  const methods = {
    gptq: () => gptqLayers(model, { text }),
    awq: () => awqLayers(model, { text }),
    hqq: () => quantizeLayers(model, { kind: "hqq" }),
  };
  for (const [name, quantize] of Object.entries(methods)) {
    const found = await by(quantize);
    assert(found < rounded, `${name}: ${found}, rounded ${rounded}, plain ${plain}`);
  }
  model.dispose();
});

const GPT2 = {
  "model_type": "gpt2",
  "vocab_size": 64,
  "n_embd": 32,
  "n_layer": 2,
  "n_head": 4,
  "n_positions": 32,
};

Deno.test("GPT-2's turned weights are quantized by every method too", async () => {
  const model = randomModel(device, GPT2, { seed: 3 });
  const ids = Int32Array.from({ length: 96 }, (_, i) => (7 * i * i) % 64);
  const text = { ids, window: 32 };
  const input = tensor(device, ids.subarray(0, 32), [1, 32]);
  const before = await model.forward(input).read() as Float32Array;
  for (
    const quantize of [
      () => gptqLayers(model, { text, bits: 8 }),
      () => gptqLayers(model, { text, groupSize: 16 }),
      () => gptqLayers(model, { text, bits: 3, groupSize: 8 }),
      () => awqLayers(model, { text, groupSize: 16 }),
      () => awqLayers(model, { text, bits: 3, groupSize: 8 }),
      () => quantizeLayers(model, { kind: "hqq", bits: 3, groupSize: 8 }),
      () => quantizeLayers(model, (path) => path.includes("mlp") ? { kind: "nf4" } : null),
    ]
  ) {
    const made = await quantize();
    const after = await model.forward(input).read() as Float32Array;
    const moved = after.reduce((sum, x, i) => sum + (x - before[i]) ** 2, 0);
    const size = before.reduce((sum, x) => sum + x ** 2, 0);
    assert(moved > 0 && moved < 0.05 * size, `${moved} of ${size}`);
    made.restore();
    assertEquals(await model.forward(input).read(), before);
  }
  model.dispose();
});

Deno.test("calibration refuses no text, one token, and foreign ids", async () => {
  const model = randomModel(device, GPT2, { seed: 3 });
  for (const [ids, part] of [[[], "0 tokens"], [[5], "1 tokens"], [[5, 64], "id 64"]] as const) {
    await assertRejects(() => gptqLayers(model, { text: { ids } }), RangeError, part);
    await assertRejects(() => awqLayers(model, { text: { ids } }), RangeError, part);
  }
  model.dispose();
});

Deno.test("a weight that is NaN, and activations that are, are named", async () => {
  const model = randomModel(device, GPT2, { seed: 3 });
  const [[, layer]] = model.linearLayers();
  const weight = (layer as unknown as { weight: ReturnType<typeof tensor> }).weight;
  const broken = new Float32Array(weight.size);
  broken[7] = NaN;
  device.write(weight, broken);
  await assertRejects(() => quantizeLayers(model, { kind: "int8" }), RangeError, "c_attn");
  const text = { ids: [1, 2, 3, 4] };
  await assertRejects(() => gptqLayers(model, { text }), RangeError, "NaN");
  await assertRejects(() => awqLayers(model, { text }), RangeError, "NaN");
  model.dispose();
});

Deno.test("the speed of a scheme is that without the first batch, in which kernels are compiled", async () => {
  const model = randomModel(device, GPT2, { seed: 3 });
  const ids = Int32Array.from({ length: 8192 }, (_, i) => i % 64);
  const forward = model.forward.bind(model);
  let calls = 0;
  model.forward = (...args) => {
    // As slow as a compiler, the first time.
    const until = performance.now() + (calls++ === 0 ? 3000 : 0);
    while (performance.now() < until);
    return forward(...args);
  };
  const [f32] = await compareSchemes(model, ids, { schemes: ["f32"] });
  assert(calls > 0 && f32.tokensPerSecond > ids.length / 3, `${f32.tokensPerSecond}`);
  model.dispose();
});

Deno.test("what is compared and measured must be plain, and of the model's own tokens", async () => {
  const model = randomModel(device, GPT2, { seed: 3 });
  const ids = Int32Array.from({ length: 64 }, (_, i) => i);
  const schemes = ["f32", "int8"];
  await assertRejects(
    () => compareSchemes(model, ids.map((id) => 2 * id), { schemes }),
    RangeError,
    "token 33 has the id 64",
  );
  await assertRejects(() => compareSchemes(model, ids, { schemes: ["int9"] }), RangeError, "int9");
  const wrong = { kind: "int9" } as unknown as WeightScheme;
  await assertRejects(() => quantizeLayers(model, wrong), RangeError, 'no scheme "int9"');
  // A scheme that fails leaves the model as it was.
  const before = await compareSchemes(model, ids, { schemes });
  assertEquals(before.map(({ scheme }) => scheme), schemes);
  (await quantizeLayers(model, { kind: "int4", groupSize: 16 })).commit();
  const plain = /wanted plain weights; load it without quantize/.source;
  await assertRejects(() => compareSchemes(model, ids, { schemes }), TypeError, plain);
  await assertRejects(() => measureSensitivity(model, { ids, schemes }), TypeError, plain);
  await assertRejects(() => quantizeLayers(model, { kind: "int8" }), TypeError, plain);
  await assertRejects(() => gptqLayers(model, { text: { ids } }), TypeError, plain);
  model.dispose();
});
