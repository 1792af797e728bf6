import { readText } from "../../../train/data/dataset.ts";
import { evaluatePerplexity } from "../../../train/eval/perplexity.ts";
import { affineParameters } from "../../../kernels/quant/affine.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { QuantizedActivationLinear } from "../../../train/nn/quantized_activations.ts";
import { calibrateActivations } from "../../../train/quant/activation_ranges.ts";
import { gptqLayers } from "../../../train/quant/gptq_layers.ts";
import { quantizeActivations, readsActivation } from "../../../train/quant/quantize_activations.ts";
import { smoothingFactors } from "../../../train/quant/smooth_quant.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { enlarge, GPT2, IDS, LLAMA, logits, moved } from "../../tiny_models.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;

const QWEN3 = { ...LLAMA, "model_type": "qwen3", "head_dim": 12 };

Deno.test("the embedded model keeps its perplexity in W8A8: static within 1 % with SmoothQuant, dynamic too", async () => {
  const model = await loadModel(device, `${ASSETS}base`);
  const held = model.tokenizer!.encode((await readText(`${ASSETS}wordnet/heldout.txt`)).text);
  const calibration = { ids: held.subarray(20_000, 22_048), window: 256 };
  const measure = async () =>
    (await evaluatePerplexity(model, held.subarray(0, 4096), { window: 256 })).perplexity;
  const plain = await measure();
  const by = async (options: Parameters<typeof quantizeActivations>[1]) => {
    const made = await quantizeActivations(model, options);
    const found = await measure();
    made.restore();
    return found / plain;
  };
  const dynamic = await by({});
  const smooth = await by({ activations: "static", calibration, smooth: 0.5, places: "all" });
  const fixed = await by({ activations: "static", calibration });
  const mixed = await by({
    activations: (path) => readsActivation(path) ? "dynamic" : "static",
    calibration,
    smooth: 0.5,
  });
  assertEquals(await measure(), plain);
  assert(dynamic > 1 && dynamic < 1.005, `dynamic ${dynamic}`);
  assert(smooth > 1 && smooth < 1.01, `static, smoothed ${smooth}`);
  assert(fixed > smooth && fixed < 1.03, `static ${fixed}, smoothed ${smooth}`);
  assert(mixed > 1 && mixed < smooth, `down_proj dynamic ${mixed}, static ${smooth}`);
  model.dispose();
});

Deno.test("every architecture runs in whole numbers, and is put back", async () => {
  for (const config of [LLAMA, GPT2, QWEN3]) {
    const model = randomModel(device, config, { seed: 5 });
    const before = await logits(model);
    const text = { ids: IDS, window: 32 };
    for (
      const options of [
        {},
        { weights: "int4", groupSize: 8 },
        { activations: "static", calibration: text },
        { activations: "static", calibration: text, kind: "asymmetric" },
        { activations: "static", calibration: text, smooth: 0.6, observer: { kind: "mse" } },
        { activations: "dynamic", calibration: text, smooth: 0.5, places: "all" },
      ] as const
    ) {
      const made = await quantizeActivations(model, options);
      for (const [, layer] of model.linearLayers()) {
        assert(layer instanceof QuantizedActivationLinear);
      }
      const error = moved(before, await logits(model));
      const what = `${config["model_type"]} ${JSON.stringify(options)}: ${error}`;
      assert(error > 0 && error < ("weights" in options ? 0.1 : 2e-3), what);
      made.restore();
      assertEquals(await logits(model), before);
    }
    model.dispose();
  }
});

Deno.test("activations are chosen layer by layer, and none leaves them plain", async () => {
  const model = randomModel(device, LLAMA, { seed: 2 });
  const made = await quantizeActivations(model, {
    activations: (path) =>
      path.endsWith("down_proj") ? "dynamic" : path.includes("layers.1") ? "static" : "none",
    calibration: { ids: IDS },
  });
  const kinds = [...model.linearLayers()].map(([path, layer]) => {
    const own = layer instanceof QuantizedActivationLinear ? layer.activations.kind : "none";
    return [path.endsWith("down_proj") ? "dynamic" : path.includes("layers.1") ? "static" : "none"]
      .concat(own);
  });
  for (const [wanted, found] of kinds) assertEquals(found, wanted);
  made.commit();
  assert((await logits(model)).every(Number.isFinite));
  model.dispose();
});

Deno.test("a choice sees what calibration found, and readsActivation() knows the layers behind activations", async () => {
  const model = randomModel(device, LLAMA, { seed: 2 });
  const ranges = await calibrateActivations(model, { text: { ids: IDS } });
  const seen: [string, number | undefined][] = [];
  const made = await quantizeActivations(model, {
    ranges,
    activations(path, found) {
      seen.push([path, found?.range.high]);
      return "static";
    },
  });
  made.restore();
  assertEquals(seen, [...ranges.layers].map(([path, { range }]) => [path, range.high]));
  await assertRejects(
    () => quantizeActivations(model, { activations: () => "static" }),
    RangeError,
    "calibration has found none",
  );
  assertEquals(
    [...ranges.layers.keys()].filter(readsActivation),
    [0, 1].map((i) => `model.layers.${i}.mlp.down_proj`),
  );
  assert(readsActivation("transformer.h.3.mlp.c_proj"));
  assert(!readsActivation("transformer.h.3.attn.c_proj"));
  model.dispose();
});

Deno.test("weights by GPTQ are kept, and put back", async () => {
  const model = randomModel(device, LLAMA, { seed: 3 });
  const text = { ids: IDS, window: 32 };
  (await gptqLayers(model, { text, groupSize: 8 })).commit();
  const before = await logits(model);
  const made = await quantizeActivations(model, { weights: "keep" });
  const after = await logits(model);
  assert(moved(before, after) > 0 && moved(before, after) < 2e-3);
  made.restore();
  for (const [, layer] of model.linearLayers()) {
    assert(layer instanceof QuantizedLinear && !(layer instanceof QuantizedActivationLinear));
  }
  assertEquals(await logits(model), before);
  (await quantizeActivations(model, { weights: "keep" })).commit();
  assertEquals(await logits(model), after);
  model.dispose();
});

Deno.test("smoothing changes nothing but rounding, and evens out an outlier", async () => {
  const model = randomModel(device, LLAMA, { seed: 4 });
  // One channel that is fifty times as large as the others.
  await enlarge(model, "model.layers.0.input_layernorm", 7, 50);
  const before = await logits(model);
  const text = { ids: IDS, window: 32 };
  const plain = await calibrateActivations(model, { text });
  const smooth = await calibrateActivations(model, { text, smooth: 0.5 });
  assertEquals(await logits(model), before);
  const path = "model.layers.0.self_attn.q_proj";
  const ratio = (channels: Float32Array) =>
    Math.max(...channels) / [...channels].sort((a, b) => a - b)[24];
  const [rough, even] = [plain, smooth].map(({ layers }) => ratio(layers.get(path)!.channels));
  assert(rough > 20 && even < rough / 4, `${rough} became ${even}`);
  const error = async (ranges: typeof plain) => {
    const made = await quantizeActivations(model, { activations: "static", ranges });
    const found = moved(before, await logits(model));
    made.restore();
    return found;
  };
  const [without, smoothed] = [await error(plain), await error(smooth)];
  assert(smoothed < 0.5 * without, `${smoothed} smoothed, ${without} before`);
  // Moved factors alone.
  const none = await quantizeActivations(model, { activations: () => "none", ranges: smooth });
  assert(moved(before, await logits(model)) < 1e-3);
  none.restore();
  assertEquals(await logits(model), before);
  model.dispose();
});

Deno.test("smoothingFactors() is the formula, and 1 where a channel is nothing", () => {
  const found = smoothingFactors([4, 0, 9, 1, 1e30], [1, 2, 0, 4, 1e-30], 0.5);
  assertRelativeError(found, [2, 1, 1, 0.5, 1e5], 1e-6);
  assertRelativeError(smoothingFactors([4, 9], [2, 3], 1), [4, 9], 1e-6);
  assertRelativeError(smoothingFactors([4, 9], [2, 4], 0), [0.5, 0.25], 1e-6);
});

Deno.test("a channel of zeros, a layer that reads only zeros, and two tokens of text are quantized", async () => {
  const model = randomModel(device, LLAMA, { seed: 6 });
  const gains = new Map(model.modules());
  const zero = async (path: string, channels: number[]) => {
    const [[, gain]] = [...gains.get(path)!.tensors()];
    const numbers = await gain.read() as Float32Array<ArrayBuffer>;
    for (const c of channels) numbers[c] = 0;
    device.write(gain, numbers);
  };
  await zero("model.layers.0.input_layernorm", [0, 11]);
  await zero("model.layers.1.input_layernorm", Array.from({ length: 48 }, (_, c) => c));
  const before = await logits(model);
  const calibration = { ids: IDS.subarray(0, 2) };
  for (const smooth of [undefined, 0.5]) {
    const made = await quantizeActivations(model, { activations: "static", calibration, smooth });
    assertEquals(made.ranges!.tokens, 2);
    const { range } = made.ranges!.layers.get("model.layers.1.self_attn.v_proj")!;
    assertEquals([range.low + 0, range.high + 0], [0, 0]);
    assertEquals(affineParameters(range, { bits: 8, kind: "symmetric" }).scale, 2 ** -23);
    const after = await logits(model);
    // Two tokens are no calibration: much is clipped, but nothing breaks.
    assert(after.every(Number.isFinite) && moved(before, after) < 1);
    made.restore();
  }
  const dynamic = await quantizeActivations(model, {});
  assert(moved(before, await logits(model)) < 2e-3);
  dynamic.restore();
  model.dispose();
});

Deno.test("what cannot be quantized is named, and the model stays what it was", async () => {
  const model = randomModel(device, LLAMA, { seed: 7 });
  const before = await logits(model);
  const fixed = { activations: "static" } as const;
  const text = { ids: IDS, window: 32 };
  const refuses = async (
    options: Parameters<typeof quantizeActivations>[1],
    type: typeof TypeError | typeof RangeError,
    part: string,
  ) => {
    await assertRejects(() => quantizeActivations(model, options), type, part);
    assertEquals(await logits(model), before);
  };
  await refuses(fixed, TypeError, "without a text");
  await refuses({ smooth: 0.5 }, TypeError, "smooth a model without a text");
  await refuses({ ...fixed, calibration: { ids: [] } }, RangeError, "0 tokens");
  await refuses({ ...fixed, calibration: { ids: [5] } }, RangeError, "1 tokens");
  await refuses({ ...fixed, calibration: { ids: [5, 96] } }, RangeError, "id 96");
  await refuses({ ...fixed, calibration: text, smooth: 1.5 }, RangeError, "alpha of 1.5");
  await refuses(
    { ...fixed, calibration: text, observer: { kind: "percentile", percentile: 0 } },
    RangeError,
    "percentile 0",
  );
  await refuses({ weights: "keep" }, TypeError, "32-bit floats");
  const other = randomModel(device, { ...LLAMA, "hidden_size": 64, "head_dim": 16 }, { seed: 7 });
  for (const smooth of [undefined, 0.5]) {
    const ranges = await calibrateActivations(other, { text, smooth });
    await refuses({ ...fixed, ranges }, RangeError, "calibrate this model itself");
  }
  other.dispose();
  const nf4 = await quantizeLayers(model, { kind: "nf4" });
  await assertRejects(() => quantizeActivations(model, { weights: "keep" }), TypeError, "nf4");
  await assertRejects(() => quantizeActivations(model, {}), TypeError, "nf4 already");
  await assertRejects(
    () => quantizeActivations(model, { ...fixed, calibration: text, smooth: 0.5 }),
    TypeError,
    "plain weights",
  );
  nf4.restore();
  model.dispose();
});

Deno.test("activations that are NaN are named in calibration, and give NaN without one", async () => {
  const model = randomModel(device, LLAMA, { seed: 8 });
  const [[, gain]] = [...new Map(model.modules()).get("model.layers.1.input_layernorm")!.tensors()];
  for (const bad of [NaN, Infinity]) {
    const numbers = await gain.read() as Float32Array<ArrayBuffer>;
    numbers[3] = bad;
    device.write(gain, numbers);
    await assertRejects(
      () =>
        quantizeActivations(model, {
          activations: "static",
          calibration: { ids: IDS, window: 32 },
        }),
      RangeError,
      'Cannot calibrate "model.layers.1.self_attn.q_proj"',
    );
    const made = await quantizeActivations(model, {});
    assert((await logits(model)).every(Number.isNaN));
    made.restore();
  }
  model.dispose();
});
