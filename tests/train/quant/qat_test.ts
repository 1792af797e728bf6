import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { distillationRef } from "../../../kernels/loss/distillation_ref.ts";
import { IntegerTensor } from "../../../kernels/quant/integer.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { loadCheckpoint, saveCheckpoint } from "../../../train/checkpoint.ts";
import { generateTokens } from "../../../train/eval/generate.ts";
import type { Sequence } from "../../../train/data/dataset.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { Trainer, type TrainOptions } from "../../../train/loop.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { saveGguf } from "../../../train/models/gguf_export.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { type FakeQuantLinear, InputQuantizedLinear } from "../../../train/nn/fake_quant_linear.ts";
import { QuantizedActivationLinear } from "../../../train/nn/quantized_activations.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { convertQat } from "../../../train/quant/qat_convert.ts";
import type { QatOptions, QatWeightOptions } from "../../../train/quant/qat_options.ts";
import { prepareQat } from "../../../train/quant/qat.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

/** 80 columns: groups of 64 and of 32 leave a shorter one. */
const LLAMA: Json = {
  "model_type": "llama",
  "vocab_size": 96,
  "hidden_size": 80,
  "intermediate_size": 64,
  "num_hidden_layers": 2,
  "num_attention_heads": 4,
  "max_position_embeddings": 32,
  "initializer_range": 0.1,
};
const GPT2: Json = {
  "model_type": "gpt2",
  "vocab_size": 96,
  "n_embd": 32,
  "n_layer": 1,
  "n_head": 2,
  "n_positions": 32,
  "initializer_range": 0.1,
};

function makeModel(json: Json = LLAMA, trainable: "all" | "none" = "all"): LanguageModel {
  return randomModel(device, json, { seed: 3, trainable });
}

const SEQUENCES: Sequence[] = Array.from({ length: 8 }, (_, i) => {
  const ids = Int32Array.from(randomIntegers(16, 96, i));
  return { ids, labels: ids.map((id) => (id + 1) % 96) };
});

/** Trains some steps, and gives the losses. */
async function trainSome(model: LanguageModel, options: TrainOptions = {}): Promise<number[]> {
  using trainer = new Trainer(model, SEQUENCES, {
    ...{ steps: 6, batchSize: 2, length: 16, learningRate: 3e-3, seed: 1 },
    ...options,
  });
  const losses: number[] = [];
  for await (const { loss } of trainer.run()) losses.push(loss);
  return losses;
}

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  const ids = tensor(device, Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % 96), [2, 12]);
  using logits = device.scope(() => noGrad(() => device.keep(model.forward(ids))));
  return await logits.read() as Float32Array;
}

const PATH = "model.layers.1.mlp.up_proj";

const layerAt = (model: LanguageModel, path = PATH) => new Map(model.linearLayers()).get(path)!;

/** The codes and scales of a converted layer. */
async function integersOf(
  model: LanguageModel,
  path = PATH,
): Promise<[IntegerTensor, Uint32Array]> {
  const layer = layerAt(model, path);
  assert(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor);
  return [layer.weight, await layer.weight.packed.read() as Uint32Array];
}

/** Prepares, trains and converts a model: it must be the same before and after, and learn. */
async function checkRun(model: LanguageModel, options: QatOptions, what: string): Promise<void> {
  await prepareQat(model, options);
  const losses = await trainSome(model);
  assert(losses.at(-1)! < losses[0], `${what}: ${losses}`);
  const before = await logitsOf(model);
  await convertQat(model);
  // Products of bytes round otherwise than those of floats: a number between two steps may then go to the other in the next layer.
  const bound = options.activations && device.adapter.type === "gpu" ? 1e-2 : 1e-5;
  assertRelativeError(await logitsOf(model), before, bound, what);
  for (const [path, layer] of model.linearLayers()) {
    assert(layer instanceof QuantizedLinear, `${what}: ${path}`);
    const { activations } = options;
    const bits = typeof options.weights === "object" ? options.weights.bits ?? 4 : 4;
    assertEquals(layer.weight.scheme, bits > 4 ? "int8" : `int${bits}`, what);
    // Bytes are multiplied as integers.
    const isBytes = activations && (activations.bits ?? 8) === 8 && activations.range !== "token";
    assertEquals(layer instanceof QuantizedActivationLinear, Boolean(isBytes), what);
    assertEquals(layer instanceof InputQuantizedLinear, Boolean(activations && !isBytes), what);
  }
}

const WEIGHTS: readonly QatWeightOptions[] = [
  {},
  { bits: 8 },
  { bits: 4, kind: "symmetric", groupSize: 32 },
  { bits: 3, groupSize: 24 },
  { bits: 2, share: "channel" },
  { bits: 4, share: "tensor" },
  { bits: 8, kind: "asymmetric", share: "tensor" },
  { bits: 4, step: "learnt" },
  { bits: 4, step: "learnt", kind: "asymmetric", groupSize: 32 },
  { bits: 8, step: "learnt", share: "channel" },
  { bits: 2, step: "learnt", share: "tensor" },
];

for (const [name, json] of Object.entries({ LLAMA, GPT2 })) {
  Deno.test(`a ${name} model trained with rounded weights gives its logits in whole numbers`, async () => {
    for (const weights of name === "LLAMA" ? WEIGHTS : [WEIGHTS[0], WEIGHTS[3], WEIGHTS[7]]) {
      await checkRun(makeModel(json), { weights }, JSON.stringify(weights));
    }
  });

  Deno.test(`a ${name} model trained with rounded activations rounds them when it runs`, async () => {
    for (const range of ["token", "observed", "learnt"] as const) {
      for (const more of [{}, { bits: 4, kind: "symmetric" } as const]) {
        const activations = { range, observeSteps: 2, ...more };
        await checkRun(makeModel(json), { activations }, JSON.stringify(activations));
      }
    }
  });
}

Deno.test("before training, a prepared model is the quantized one, to the code", async () => {
  for (const kind of ["int4", "int8"] as const) {
    const [prepared, quantized] = [makeModel(), makeModel()];
    await prepareQat(prepared, { weights: { bits: kind === "int4" ? 4 : 8 } });
    await quantizeLayers(quantized, { kind });
    assertRelativeError(await logitsOf(prepared), await logitsOf(quantized), 1e-5, kind);
    await convertQat(prepared);
    const [[one, codes], [other, expected]] = await Promise.all(
      [prepared, quantized].map((model) => integersOf(model)),
    );
    assertEquals(codes, expected);
    assertEquals([one.bytes, one.groupSize], [other.bytes, other.groupSize]);
    assertRelativeError(await one.scales.read(), await other.scales.read(), 1e-6, "scales");
  }
});

Deno.test("what is learnt has names, no weight decay, and moves", async () => {
  const model = makeModel();
  await prepareQat(model, {
    weights: { step: "learnt", kind: "asymmetric" },
    activations: { range: "learnt", observeSteps: 2 },
  });
  const own = new Map([...model.parameters()].filter(([name]) => name.startsWith(`${PATH}.`)));
  const short = [...own.keys()].map((name) => name.slice(PATH.length + 1));
  assertEquals(short, [
    ...["weight", "weight_log_step", "weight_zero", "input_log_step", "input_zero"],
  ]);
  const before = layerAt(model);
  await trainSome(model, { weightDecay: 0.5 });
  for (const name of ["weight_log_step", "input_log_step"]) {
    const t = own.get(`${PATH}.${name}`)!;
    assertEquals(t.shape.length, 1);
    const numbers = await t.read();
    assert(numbers.some((x) => x !== 0) && numbers.every((x) => Math.abs(x) < 0.1), name);
  }
  assert(layerAt(model) === before);
});

Deno.test("inputs are rounded only after the steps that are observed", async () => {
  const [plain, prepared] = [makeModel(), makeModel()];
  const [weights, activations] = [{ bits: 8 }, { bits: 2, observeSteps: 3 }];
  await prepareQat(plain, { weights });
  await prepareQat(prepared, { weights, activations });
  const [expected, found] = [await trainSome(plain), await trainSome(prepared)];
  assertEquals(found.slice(0, 3), expected.slice(0, 3));
  assert(found[3] > expected[3] + 0.01, `${found} ${expected}`);
});

Deno.test("LoRA is trained inside the rounding: converting gives just what was trained", async () => {
  for (const json of [LLAMA, GPT2]) {
    const model = makeModel(json, "none");
    const lora = addLora(model, {
      r: 4,
      alpha: 16,
      seed: 2,
      modulesToSave: [json === LLAMA ? "norm" : "ln_f"],
    });
    await prepareQat(model, { activations: { observeSteps: 2 } });
    const frozen = [...model.linearLayers()][0][1] as FakeQuantLinear;
    const weight = await frozen.weight.read();
    const losses = await trainSome(model, { learningRate: 2e-2 });
    assert(losses.at(-1)! < losses[0], `${losses}`);
    assertEquals(await frozen.weight.read(), weight);
    const before = await logitsOf(model);
    // The same by hand: merged, and rounded to nearest.
    const path = [...lora.branches.keys()][0];
    const merged = noGrad(() => lora.branches.get(path)!.mergeInto(frozen.dense()));
    const plain = makeModel(json, "none");
    device.copy(merged, (layerAt(plain, path) as unknown as { weight: typeof merged }).weight);
    await convertQat(model);
    const bound = device.adapter.type === "gpu" ? 1e-2 : 1e-5;
    assertRelativeError(await logitsOf(model), before, bound, String(json.model_type));
    assertEquals(model.adapters.size, 0);
    assertEquals([...model.parameters()], []);
    if (json === LLAMA) {
      await quantizeLayers(plain, { kind: "int4" });
      assertEquals((await integersOf(model, path))[1], (await integersOf(plain, path))[1]);
    }
  }
});

Deno.test("a frozen model whose weights lie in 16 bits is brought to 32", async () => {
  const folder = `${await Deno.makeTempDir()}/model`;
  for (const json of [LLAMA, GPT2]) {
    await saveModel(makeModel(json, "none"), folder, { dtype: "f16" });
    const run = async (weights: "f16" | "f32") => {
      const model = await loadModel(device, folder, { weights });
      addLora(model, { r: 4, seed: 2 });
      await prepareQat(model);
      await trainSome(model);
      await convertQat(model);
      return await logitsOf(model);
    };
    assertRelativeError(await run("f16"), await run("f32"), 1e-6, String(json.model_type));
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("a teacher's predictions are learnt instead of the labels", async () => {
  const teacher = makeModel(LLAMA, "none");
  const model = makeModel();
  await prepareQat(model, { weights: { bits: 2 } });
  const before = await logitsOf(model);
  const losses = await trainSome(model, { teacher, steps: 12, learningRate: 1e-3 });
  assert(losses.at(-1)! < losses[0] / 1.5, `${losses}`);
  const [wanted, after] = [await logitsOf(teacher), await logitsOf(model)];
  const counts = new Int32Array(24);
  const [far, near] = [before, after].map((x) => distillationRef(x, wanted, counts, 96));
  assert(near < 0.9 * far, `${far} ${near}`);
  // Where there is nothing to learn, nothing is.
  const same = await trainSome(makeModel(), { teacher, steps: 1 });
  assert(Math.abs(same[0]) < 1e-6, `${same}`);
  const refuse = (teacher: LanguageModel, text: string) =>
    assertRejects(() => trainSome(model, { teacher }), TypeError, text);
  await refuse(model, "it is the model itself");
  await refuse(makeModel({ ...LLAMA, vocab_size: 100 }), "it has 100 tokens, the model 96");
});

Deno.test("layers that are not chosen stay as they are, and keep what an adapter learnt", async () => {
  const model = makeModel(LLAMA, "none");
  addLora(model, { r: 2, seed: 2 });
  const weights = (path: string) => path.endsWith("v_proj") ? null : { bits: 3 };
  await prepareQat(model, { weights });
  await trainSome(model, { learningRate: 2e-2 });
  const before = await logitsOf(model);
  await convertQat(model);
  assertRelativeError(await logitsOf(model), before, 1e-5, "logits");
  const found = [...model.linearLayers()].filter(([, own]) => !(own instanceof QuantizedLinear));
  assertEquals(found.map(([path]) => path.split(".").at(-1)), ["v_proj", "v_proj"]);
});

Deno.test("a run is the same to the byte, recorded, eager, or with blocks computed again", async () => {
  const run = async (options: TrainOptions) => {
    const model = makeModel();
    await prepareQat(model, { weights: { step: "learnt" }, activations: { observeSteps: 2 } });
    const losses = await trainSome(model, options);
    return [losses, await layerAt(model).dense().read(), await logitsOf(model)];
  };
  const first = await run({});
  assertEquals(await run({}), first);
  assertEquals(await run({ replay: false }), first);
  assertEquals(await run({ checkpointing: true }), first);
});

Deno.test("a checkpoint holds what observers have seen", async () => {
  const path = `${await Deno.makeTempDir()}/run.safetensors`;
  const options = { steps: 6, batchSize: 2, length: 16, learningRate: 3e-3, seed: 1 };
  const run = async (stops: boolean) => {
    const make = async () => {
      const model = makeModel();
      await prepareQat(model, { activations: { range: "learnt", observeSteps: 2 } });
      return model;
    };
    let model = await make();
    if (stops) {
      using trainer = new Trainer(model, SEQUENCES, options);
      for await (const _ of trainer.run(3));
      await saveCheckpoint(trainer, path);
      model = await make();
    }
    using trainer = new Trainer(model, SEQUENCES, options);
    if (stops) await loadCheckpoint(trainer, path);
    for await (const _ of trainer.run());
    return await logitsOf(model);
  };
  assertEquals(await run(true), await run(false));
  const other = makeModel();
  await prepareQat(other, { activations: { range: "learnt", observeSteps: 3 } });
  using trainer = new Trainer(other, SEQUENCES, options);
  await assertRejects(() => loadCheckpoint(trainer, path), TypeError, "observed for 2 steps");
  await Deno.remove(path);
});

Deno.test("a channel of nothing but zeros stays so in whole numbers, and trains out of it", async () => {
  for (const step of ["range", "learnt"] as const) {
    const model = makeModel();
    const layer = layerAt(model);
    const weight = layer.dense();
    const numbers = await weight.read() as Float32Array;
    numbers.fill(0, 0, 80);
    device.write(weight, numbers);
    const still = makeModel();
    device.write(layerAt(still).dense(), numbers);
    await prepareQat(still, { weights: { step } });
    await convertQat(still);
    const decoded = await layerAt(still).dense().read();
    assert(decoded.subarray(0, 80).every((x) => x === 0), step);
    await prepareQat(model, { weights: { step } });
    const losses = await trainSome(model);
    assert(losses.every(Number.isFinite), `${losses}`);
    const trained = await layerAt(model).dense().read();
    assert(trained.subarray(0, 80).some((x) => x !== 0), step);
  }
});

Deno.test("a converted model with rounded activations generates, token by token, as it predicts", async () => {
  for (const [range, kind] of [["observed", "asymmetric"], ["token", "symmetric"]] as const) {
    const model = makeModel();
    await prepareQat(model, {
      weights: { bits: 8 },
      activations: { range, kind, observeSteps: 2 },
    });
    await trainSome(model);
    await convertQat(model);
    const prompt = Int32Array.of(5, 9, 2);
    const [found] = await generateTokens(model, [prompt], { maxNewTokens: 6, endTokens: [] });
    const own = [...prompt];
    for (let i = 0; i < 6; i++) {
      const ids = tensor(device, Int32Array.from(own), [1, own.length]);
      const logits = await noGrad(() => model.forward(ids)).read() as Float32Array;
      const last = logits.subarray(-96);
      own.push(last.indexOf(Math.max(...last)));
    }
    assertEquals([...found], own.slice(3), range);
  }
});

Deno.test("remove() gives the plain model back", async () => {
  const model = makeModel();
  const before = await logitsOf(model);
  const qat = await prepareQat(model, { weights: { bits: 2 }, activations: {} });
  assert((await logitsOf(model)).some((x, i) => x !== before[i]));
  qat.remove();
  assertEquals(await logitsOf(model), before);
  assertEquals(model.adapters.size, 0);
});

Deno.test("no memory is left behind by a run that was converted", async () => {
  const live = () => device.memory.live;
  const once = async () => {
    const start = live();
    const model = makeModel();
    await prepareQat(model, {
      weights: { step: "learnt" },
      activations: { range: "learnt", observeSteps: 2 },
    });
    await trainSome(model);
    await convertQat(model);
    model.dispose();
    return live() - start;
  };
  await once();
  assertEquals(await once(), 0);
});

Deno.test("a model that was trained whole is quantized, and its other weights stay", async () => {
  const model = makeModel();
  await trainSome(model);
  const replaced = await quantizeLayers(model, { kind: "int8" });
  const before = await logitsOf(model);
  replaced.commit();
  // What was freed is used again.
  const other = makeModel();
  assertEquals(await logitsOf(model), before);
  other.dispose();
});

Deno.test("what makes no sense is refused, with what to do", async () => {
  const model = makeModel();
  const refuse = (options: QatOptions, text: string) =>
    assertRejects(() => prepareQat(model, options), RangeError, text);
  await refuse({ weights: { bits: 1 } }, "1 bits");
  await refuse({ weights: { groupSize: 0 } }, "groups of 0");
  await refuse({ weights: { groupSize: 2.5 } }, "groups of 2.5");
  await refuse({ weights: { share: "channel", groupSize: 32 } }, "leave groupSize out");
  await refuse({ weights: () => null }, "no layer was chosen");
  await refuse({ activations: { bits: 9 } }, "9 bits");
  await refuse({ activations: { observeSteps: 0 } }, "0 steps");
  await refuse({ activations: { momentum: 0 } }, "momentum of 0");
  await assertRejects(() => convertQat(model), TypeError, "call prepareQat");

  await prepareQat(model, { activations: {} });
  await assertRejects(() => prepareQat(model), TypeError, "prepared already");
  await assertRejects(() => convertQat(model), TypeError, "no input of it was observed");
  await assertRejects(() => saveModel(model, "/nowhere"), TypeError, "call convertQat");
  await assertRejects(() => saveGguf(model, "/nowhere"), TypeError, "call convertQat");
  await assertRejects(() => quantizeLayers(model, { kind: "int8" }), Error, "call convertQat");
  await assertRejects(async () => await addLora(model, { init: "olora" }), TypeError, "first, and");

  const quantized = makeModel(LLAMA, "none");
  await quantizeLayers(quantized, { kind: "int8" });
  await assertRejects(() => prepareQat(quantized), TypeError, "is in int8, and frozen");

  const dora = makeModel(LLAMA, "none");
  addLora(dora, { r: 2, useDora: true });
  await assertRejects(() => prepareQat(dora), TypeError, "it is DoRA");
  const dropped = makeModel(LLAMA, "none");
  addLora(dropped, { r: 2, dropout: 0.1 });
  await assertRejects(() => prepareQat(dropped), TypeError, "dropout 0");

  const merged = makeModel(LLAMA, "none");
  const lora = addLora(merged, { r: 2 });
  await prepareQat(merged);
  lora.merge();
  await assertRejects(() => convertQat(merged), TypeError, "another layer at");
  lora.unmerge();
  await convertQat(merged);

  const broken = makeModel();
  const weight = layerAt(broken).dense();
  const numbers = await weight.read() as Float32Array;
  numbers[5] = NaN;
  device.write(weight, numbers);
  const learnt: QatOptions = { weights: { step: "learnt" } };
  await assertRejects(() => prepareQat(broken, learnt), RangeError, "weight 5 is NaN");
  await prepareQat(broken);
  await assertRejects(() => convertQat(broken), RangeError, "wanted finite ones");
});
