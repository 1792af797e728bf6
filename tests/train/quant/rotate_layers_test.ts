import { OutlierTensor } from "../../../kernels/quant/outlier_split.ts";
import { rotateRef } from "../../../kernels/quant/rotate_ref.ts";
import { RotatedTensor } from "../../../kernels/quant/rotated_tensor.ts";
import { readText } from "../../../train/data/dataset.ts";
import { compareSchemes } from "../../../train/eval/compare_schemes.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { eachInput } from "../../../train/quant/input_statistics.ts";
import { quantizeActivations } from "../../../train/quant/quantize_activations.ts";
import { rotateLayers, type RotateOptions } from "../../../train/quant/rotate_layers.ts";
import { smoothingFactors } from "../../../train/quant/smooth_quant.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { GPT2, IDS, LLAMA, logits, moved, TEXT } from "../../tiny_models.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;

/** The parts of a layer's weight. */
function partsOf(model: LanguageModel, path: string): [OutlierTensor, RotatedTensor] {
  const layer = new Map(model.linearLayers()).get(path);
  assert(layer instanceof QuantizedLinear && layer.weight instanceof OutlierTensor);
  assert(layer.weight.rest instanceof RotatedTensor);
  return [layer.weight, layer.weight.rest];
}

/** Multiplies rows of a weight by factors: single channels of what reads them become far larger than the others. */
async function enlarge(model: LanguageModel, path: string, rows: Record<number, number>) {
  const weight = [...new Map(model.modules()).get(path)!.tensors()][0][1];
  const numbers = await weight.read() as Float32Array<ArrayBuffer>;
  const width = weight.size / weight.shape[0];
  for (const [row, factor] of Object.entries(rows)) {
    for (let i = 0; i < width; i++) numbers[Number(row) * width + i] *= factor;
  }
  device.write(weight, numbers);
}

/** What a layer reads of the text, [tokens · channels]. */
async function inputsOf(model: LanguageModel, path: string): Promise<Float32Array> {
  const parts: Promise<Float32Array>[] = [];
  await eachInput(model, TEXT, [[path]], (_, numbers) => parts.push(Promise.resolve(numbers)));
  return Float32Array.from((await Promise.all(parts)).flatMap((own) => [...own]));
}

/** The largest magnitude in each of so many columns. */
function columnMaxima(numbers: ArrayLike<number>, columns: number): Float64Array {
  const out = new Float64Array(columns);
  for (let i = 0; i < numbers.length; i++) {
    out[i % columns] = Math.max(out[i % columns], Math.abs(numbers[i]));
  }
  return out;
}

Deno.test("rotateLayers() smooths, turns and scales as it says, and undoes that in the weights", async () => {
  const model = randomModel(device, LLAMA, { seed: 1 });
  const path = "model.layers.1.mlp.down_proj";
  await enlarge(model, "model.layers.1.mlp.up_proj", { 5: 40, 60: 300 });
  const weight = await new Map(model.linearLayers()).get(path)!.dense().read() as Float32Array;
  const x = await inputsOf(model, path);
  const made = await rotateLayers(model, { text: TEXT, smooth: 0.6, keep: 1 / 72, margin: 1.25 });
  const [whole, { rotation, activations, turned }] = partsOf(model, path);
  assertEquals([whole.scheme, rotation.size], ["rotated-int8+kept", 8]);
  assertEquals(activations, { kind: "static", scale: 1.25 / 127, zero: 0 });

  // SmoothQuant's factors, of the channels that do not stay; the largest one stays.
  assertEquals(await whole.choice.columns.read(), Int32Array.of(60));
  const wanted = smoothingFactors(columnMaxima(x, 72), columnMaxima(weight, 72), 0.6)
    .map((factor, i) => i === 60 ? 0 : 1 / factor);
  const before = await rotation.before.read() as Float32Array;
  assertRelativeError(before, wanted, 1e-6, "factors");
  // Each turned channel goes up to 1 on the text, and not beyond.
  const after = await rotation.after.read() as Float32Array;
  const seen = columnMaxima(rotateRef(x, before, after, 8), 72);
  assertRelativeError(seen, new Float64Array(72).fill(1), 1e-5, "ranges");
  // The weight for turned inputs, rounded by rows: half a step at most.
  const undo = (own: Float32Array) => own.map((value) => value === 0 ? 0 : 1 / value);
  const exact = rotateRef(weight, undo(before), undo(after), 8);
  const stored = await turned.dequantize().read();
  for (let row = 0; row < 48; row++) {
    const own = exact.subarray(row * 72, row * 72 + 72);
    const step = Math.max(...own.map(Math.abs)) / 127;
    own.forEach((value, i) => assert(Math.abs(value - stored[row * 72 + i]) < 0.501 * step));
  }
  const dense = await whole.dequantize().read() as Float32Array;
  assert(moved(weight, dense) < 3e-3, `${moved(weight, dense)}`);
  for (let row = 0; row < 48; row++) {
    const at = row * 72 + 60;
    assert(Math.abs(dense[at] - weight[at]) <= 2 ** -10 * Math.abs(weight[at]));
  }
  made.restore();
  model.dispose();
});

for (const [name, config] of Object.entries({ LLAMA, GPT2 })) {
  Deno.test(`${name}: outliers that ruin static activations cost little when they are turned; restore() and commit()`, async () => {
    const model = randomModel(device, config, { seed: 2 });
    const first = name === "LLAMA" ? "model.layers.0.mlp.up_proj" : "transformer.h.0.ln_1";
    await enlarge(model, first, { 3: 60, 17: 20 });
    const before = await logits(model);
    const plain = [...model.linearLayers()];
    const fixed = await quantizeActivations(model, { activations: "static", calibration: TEXT });
    const without = moved(before, await logits(model));
    fixed.restore();
    const done: number[] = [];
    const made = await rotateLayers(model, { text: TEXT, onProgress: (own) => done.push(own) });
    assertEquals(done, plain.map((_, i) => i + 1));
    const after = await logits(model);
    const turned = moved(before, after);
    assert(turned > 0 && turned < 0.3 * without, `${turned} turned, ${without} before`);
    made.restore();
    assertEquals(await logits(model), before);
    [...model.linearLayers()].forEach(([path, own], i) => assert(own === plain[i][1], path));

    const bytes = model.weightBytes;
    (await rotateLayers(model, { text: TEXT })).commit();
    assertEquals(await logits(model), after);
    assert(model.weightBytes < bytes);
    model.dispose();
  });
}

Deno.test("the embedded model keeps its perplexity with all activations static, within 0.51 %; INT4 weights too", async () => {
  const model = await loadModel(device, `${ASSETS}base`);
  const held = model.tokenizer!.encode((await readText(`${ASSETS}wordnet/heldout.txt`)).text);
  const calibration = { ids: held.subarray(20_000, 22_048), window: 256 };
  const schemes = ["w8a8-static", "w8a8-rotated"] as const;
  const results = await compareSchemes(model, held.subarray(0, 4096), { schemes, calibration });
  const [fixed, turned] = results;
  assert(turned.lossChange < 0.0051, `${turned.lossChange}`);
  assert(turned.divergence < 0.5 * fixed.divergence, `${turned.divergence}, ${fixed.divergence}`);
  assert(turned.sqnr! > 35 && turned.bytes < 1.05 * fixed.bytes);
  const made = await rotateLayers(model, { text: calibration, weights: "int4" });
  assertEquals(partsOf(model, "model.layers.0.self_attn.q_proj")[1].turned.groupSize, 64);
  made.restore();
  model.dispose();
});

Deno.test("a channel of zeros, a layer that reads only zeros, and two tokens of text are rotated", async () => {
  const model = randomModel(device, LLAMA, { seed: 6 });
  const gains = new Map(model.modules());
  const zero = (path: string, channels: readonly number[]) =>
    enlarge(model, path, Object.fromEntries(channels.map((c) => [c, 0])));
  assert(gains.has("model.layers.0.input_layernorm"));
  await zero("model.layers.0.input_layernorm", [0, 11]);
  await zero("model.layers.1.input_layernorm", Array.from({ length: 48 }, (_, c) => c));
  const before = await logits(model);
  const made = await rotateLayers(model, { text: { ids: IDS.subarray(0, 2) } });
  const after = await logits(model);
  // Two tokens are no calibration: much is clipped, but nothing breaks.
  assert(after.every(Number.isFinite) && moved(before, after) < 1);
  made.restore();
  model.dispose();
});

Deno.test("rotateLayers() names what it cannot do, and leaves the model as it was", async () => {
  const model = randomModel(device, LLAMA, { seed: 7 });
  const before = await logits(model);
  const refuses = async (
    options: Partial<RotateOptions>,
    part: string,
  ) => {
    await assertRejects(
      () => rotateLayers(model, { text: TEXT, ...options }),
      RangeError,
      part,
    );
    assertEquals(await logits(model), before);
  };
  await refuses({ text: { ids: [] } }, "0 tokens");
  await refuses({ text: { ids: [5, 96] } }, "id 96");
  await refuses({ smooth: 1.5 }, "alpha of 1.5");
  for (const margin of [0.9, NaN, Infinity]) await refuses({ margin }, `ranges ${margin} times`);
  for (const keep of [0, 1, -0.1]) await refuses({ keep }, `share of ${keep}`);
  await refuses({ groupSize: 7.5 }, "model.layers.0.self_attn.q_proj");
  const nf4 = await quantizeLayers(model, { kind: "nf4" });
  await assertRejects(() => rotateLayers(model, { text: TEXT }), TypeError, "nf4 already");
  nf4.restore();
  const gain = [...new Map(model.modules()).get("model.layers.1.input_layernorm")!.tensors()][0][1];
  const numbers = await gain.read() as Float32Array<ArrayBuffer>;
  numbers[3] = NaN;
  device.write(gain, numbers);
  await assertRejects(
    () => rotateLayers(model, { text: TEXT }),
    RangeError,
    'Cannot calibrate "model.layers.1.self_attn.q_proj"',
  );
  model.dispose();
});
