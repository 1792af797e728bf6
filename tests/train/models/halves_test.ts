/** Models whose plain weights lie in 16 bits: they compute, are saved, merged and quantized as in 32. */
import { backward, noGrad } from "../../../core/autograd.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { generateTokens } from "../../../train/eval/generate.ts";
import { addLora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { exactHalves, uploadHalves, wantsHalves } from "../../../train/models/halves.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, type LoadOptions } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { saveGguf } from "../../../train/models/gguf_export.ts";
import { readFloats } from "../../../train/nn/widen.ts";
import { MovedScales } from "../../../train/quant/channel_scales.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device } from "../../device.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;
const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** How far results may be apart. */
const BOUND = device.adapter.type === "gpu" ? 1e-5 : 1e-6;

const NAMES = ["llama", "llama-tied", "gpt2"];
for (const name of NAMES) {
  const model = await loadModel(device, `${GOLDEN}${name}`);
  await saveModel(model, `${folder}/${name}`, { dtype: "f16" });
  model.dispose();
}

/** A checkpoint of 16-bit floats, in the memory that options ask for. */
async function load(name: string, options: LoadOptions = {}): Promise<LanguageModel> {
  return await loadModel(device, `${folder}/${name}`, options);
}

function tensorsOf(model: LanguageModel): Map<string, Tensor> {
  const found = new Map<string, Tensor>();
  for (const [path, module] of model.modules()) {
    for (const [name, own] of module.tensors()) found.set(`${path}.${name}`, own);
  }
  return found;
}

const ids = () =>
  tensor(device, Int32Array.from({ length: 12 }, (_, i) => (7 * i + 3) % 90), [2, 6]);

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  using logits = device.scope(() => noGrad(() => model.forward(ids())));
  return await logits.read() as Float32Array;
}

Deno.test("exactHalves() knows every half, and that the floats beside them are none", () => {
  const bits = Uint16Array.from({ length: 1 << 16 }, (_, i) => i);
  const all = new Float16Array(bits.buffer).filter(Number.isFinite);
  const floats = Float32Array.from(all);
  const out = new Uint16Array(all.length);
  assert(exactHalves(floats, out));
  assertEquals(out, new Uint16Array(all.buffer));
  const one = new Float32Array(1);
  const word = new Uint32Array(one.buffer);
  for (const x of floats) {
    for (const step of [1, -1]) {
      one[0] = x;
      word[0] += step;
      // Below the smallest magnitude there is none: the sign of zero turns over into no number.
      if (Number.isFinite(one[0])) assert(!exactHalves(one, out), `${x} and ${step} ulp`);
    }
  }
  for (const x of [65536, 1e30, 2 ** -25, 3 * 2 ** -25]) {
    assert(!exactHalves(Float32Array.of(x), out), `${x}`);
  }
});

Deno.test("uploadHalves() goes on in 32 bits where a number is no half, and rounds if told", async () => {
  const pieces = [[1, -2, 0, 2 ** -24], [0.5, 65504, 3, 2 ** -14], [0.1, 4, 5, 6]]
    .map((piece) => Float32Array.from(piece));
  const all = Float32Array.from(pieces.flatMap((piece) => [...piece]));
  const before = device.memory.live;
  const upload = (own: Float32Array<ArrayBuffer>[], round: boolean) =>
    uploadHalves(device, own, [own.length, 4], round);
  const exact = await upload(pieces.slice(0, 2), false);
  assertEquals([exact.kind, exact.weight.dtype], ["exact", "f16"]);
  assertEquals(await readFloats(exact.weight), all.slice(0, 8));
  const wide = await upload(pieces, false);
  assertEquals([wide.kind, wide.weight.dtype], ["wide", "f32"]);
  assertEquals(await wide.weight.read(), all);
  const rounded = await upload(pieces, true);
  assertEquals([rounded.kind, rounded.weight.dtype], ["rounded", "f16"]);
  assertEquals(await rounded.weight.read(), new Float16Array(all));
  const large = await upload([...pieces, Float32Array.of(1, 2, 3, 65520)], true);
  assertEquals([large.kind, large.weight.dtype], ["wide", "f32"]);
  // What was rounded before stays so.
  assertEquals((await large.weight.read())[8], Math.f16round(0.1));
  for (const { weight } of [exact, wide, rounded, large]) weight.dispose();
  assertEquals(device.memory.live, before);
  await assertRejects(() => upload([Float32Array.of(1, NaN, 0, 0)], true), RangeError, "number 1");
  assertEquals(device.memory.live, before);
});

Deno.test("weights are kept in 16 bits by themselves on a GPU alone, where they are frozen", async () => {
  const own = device.adapter;
  const matrix = { role: "head", shape: [8, 4] } as const;
  const wants = (
    type: "gpu" | "software",
    spec: Parameters<typeof wantsHalves>[1],
    options = {},
  ) => {
    Object.assign(device, { adapter: { ...own, type } });
    try {
      return wantsHalves(device, spec, options);
    } finally {
      Object.assign(device, { adapter: own });
    }
  };
  assertEquals(wants("gpu", matrix), true);
  assertEquals(wants("software", matrix), false);
  assertEquals(wants("software", matrix, { weights: "f16" }), true);
  assertEquals(wants("gpu", matrix, { weights: "f32" }), false);
  assertEquals(wants("gpu", matrix, { trainable: "all" }), false);
  assertEquals(wants("gpu", { role: "linear", shape: [8, 6] }), false);
  assertEquals(wants("gpu", { role: "norm", shape: [8] }), false);
  // A checkpoint of 32-bit floats is left as it is.
  Object.assign(device, { adapter: { ...own, type: "gpu" } });
  const [half, full] = await Promise.all([
    loadModel(device, `${folder}/llama`),
    loadModel(device, `${GOLDEN}llama`),
  ]).finally(() => Object.assign(device, { adapter: own }));
  const dtypes = (model: LanguageModel) =>
    new Set([...tensorsOf(model).values()].filter((t) => t.shape.length === 2).map((t) => t.dtype));
  assertEquals([...dtypes(half)], ["f16"]);
  assertEquals([...dtypes(full)], ["f32"]);
  const norms = full.weightBytes - 2 * (full.weightBytes - half.weightBytes);
  assert(norms > 0 && norms < 0.02 * full.weightBytes, `${norms}`);
  assertEquals([half.notes, full.notes], [[], []]);
  half.dispose();
  full.dispose();
});

for (const name of NAMES) {
  Deno.test(`${name} in 16 bits: logits, loss and gradients of an adapter are those in 32`, async () => {
    const run = async (weights: "f16" | "f32") => {
      const model = await load(name, { weights });
      const types = new Set([...tensorsOf(model).values()].map(({ dtype }) => dtype));
      assertEquals(types.has("f16"), weights === "f16");
      addLora(model, { r: 4, seed: 1, init: "gaussian" });
      const logits = await logitsOf(model);
      const loss = model.loss(ids(), ids());
      backward(loss);
      const grads = await Promise.all([...model.parameters()].map(([, t]) => t.grad!.read()));
      const numbers = new Map<string, Float32Array>();
      for (const [path, own] of tensorsOf(model)) numbers.set(path, await readFloats(own));
      return { model, logits, loss: await loss.item(), grads, numbers };
    };
    const [half, full] = [await run("f16"), await run("f32")];
    assertEquals(half.numbers, full.numbers);
    assertRelativeError(half.logits, full.logits, BOUND);
    assertRelativeError([half.loss], [full.loss], BOUND);
    for (const [i, grad] of half.grads.entries()) {
      assertRelativeError(grad, full.grads[i], BOUND, `${i}`);
    }
    half.model.dispose();
    full.model.dispose();
  });
}

Deno.test("a GPU's kernels answer the same with weights in 16 bits", async () => {
  await onBoth(async () => {
    for (const name of ["llama-tied", "gpt2"]) {
      await inBoth(name, async (model) => {
        const prompt = Int32Array.from({ length: 5 }, (_, i) => 11 * i + 2);
        const options = { maxNewTokens: 6, endTokens: [] };
        return await generateTokens(model, [prompt], options);
      });
      const [half, full] = [
        await load(name, { weights: "f16" }),
        await load(name, { weights: "f32" }),
      ];
      assertRelativeError(await logitsOf(half), await logitsOf(full), 1e-6, name);
      half.dispose();
      full.dispose();
    }
  });
});

/** What a model folder holds. */
async function readFolder(path: string): Promise<Map<string, Float32Array>> {
  using file = await SafetensorsFile.open(`${path}/model.safetensors`);
  const found = new Map<string, Float32Array>();
  for (const key of file.entries.keys()) found.set(key, await file.readFloats(key));
  return found;
}

/**
 * Equal to the bit where both take the same kernels, as on software Vulkan. On a GPU those for weights in 16 bits are others, which
 * add in another order.
 */
function assertAlike(found: unknown, wanted: unknown, what: string): void {
  if (found instanceof Float32Array && wanted instanceof Float32Array && BOUND > 1e-6) {
    assertRelativeError(found, wanted, BOUND, what);
  } else if (Array.isArray(found) && Array.isArray(wanted)) {
    assertEquals(found.length, wanted.length, what);
    found.forEach((one, i) => assertAlike(one, wanted[i], `${what} ${i}`));
  } else assertEquals(found, wanted, what);
}

/** Runs `body` on a model in 16 bits and on the same in 32: what they give must be the same. */
async function inBoth(name: string, body: (model: LanguageModel) => Promise<unknown>) {
  const given: unknown[] = [];
  for (const weights of ["f16", "f32"] as const) {
    const before = device.memory.live;
    const model = await load(name, { weights });
    given.push(await body(model));
    model.dispose();
    assertEquals(device.memory.live, before, `${name} in ${weights}: memory`);
  }
  assertAlike(given[0], given[1], name);
}

Deno.test("models in 16 bits are saved, merged and quantized as in 32", async () => {
  for (const name of ["llama", "gpt2"]) {
    await inBoth(name, async (model) => {
      const out = `${folder}/out`;
      const written: Map<string, Float32Array>[] = [];
      for (const dtype of ["f32", "bf16"] as const) {
        await saveModel(model, out, { dtype });
        written.push(await readFolder(out));
      }
      addLora(model, { r: 2, seed: 2 });
      for (const [key, own] of model.parameters()) {
        const numbers = Float32Array.from({ length: own.size }, (_, i) => i % 7 / 70);
        if (key.includes("lora_B")) device.write(own, numbers);
      }
      mergeAdapter(model);
      await saveModel(model, out);
      written.push(await readFolder(out));
      (await quantizeLayers(model, { kind: "int8" })).commit();
      await saveModel(model, out, { dequantize: true });
      written.push(await readFolder(out));
      return written;
    });
  }
});

Deno.test("a model in 16 bits is exported as in 32", async () => {
  await inBoth("llama", async (model) => {
    await saveGguf(model, `${folder}/out.gguf`, { type: "f16" });
    return await Deno.readFile(`${folder}/out.gguf`);
  });
});

Deno.test("modules of a model in 16 bits are trained whole, in 32, and their channels scaled", async () => {
  await inBoth("llama", async (model) => {
    const lora = addLora(model, { r: 2, modulesToSave: ["embed_tokens", "lm_head"] });
    device.scope(() => backward(model.loss(ids(), ids())));
    const grads: unknown[] = [];
    for (const [key, own] of model.parameters()) {
      assertEquals(own.dtype, "f32", key);
      if (!key.includes("lora")) grads.push(await own.grad!.read());
      own.grad!.dispose();
    }
    assertEquals(grads.length, 2);
    lora.remove();
    const moved = new MovedScales(model);
    const [scaling] = model.scalings();
    const { hiddenSize } = model.config;
    moved.move(scaling, Float32Array.from({ length: hiddenSize }, (_, i) => 1 + i % 3));
    const layers = new Map(model.linearLayers());
    const scaled = await readFloats(layers.get(scaling.readers[0])!.dense());
    moved.restore();
    return [grads, scaled, await logitsOf(model)];
  });
});

Deno.test("a decomposed adapter on a model in 16 bits leaves no memory behind", async () => {
  await inBoth("llama", async (model) => {
    const lora = await addLora(model, { r: 2, init: "pissa", useDora: true });
    const logits = await logitsOf(model);
    lora.remove();
    return logits;
  });
});

Deno.test("loadModel() says which weights were rounded, and refuses to train them", async () => {
  const model = await loadModel(device, `${GOLDEN}llama-tied`, { weights: "f16" });
  assertEquals(model.notes.length, 1);
  assert(/^"model.embed_tokens.weight" and \d+ more rounded to 16 bits$/.test(model.notes[0]));
  model.dispose();
  const none = await load("llama-tied", { weights: "f16" });
  assertEquals(none.notes, []);
  none.dispose();
  await assertRejects(
    () => load("llama", { weights: "f16", trainable: "all" }),
    TypeError,
    "Cannot train weights in f16",
  );
  await assertRejects(
    () => load("llama", { weights: "f8" as "f16" }),
    RangeError,
    'wanted "f16" or "f32"',
  );
});
