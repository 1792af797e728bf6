import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { OutlierTensor } from "../../../kernels/quant/outlier_split.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { measurePolicies } from "../../../train/eval/sensitivity.ts";
import { compareSchemes } from "../../../train/eval/compare_schemes.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { splitLayers } from "../../../train/quant/outlier_layers.ts";
import { parseScheme, showScheme } from "../../../train/quant/policy.ts";
import { quantizeWeight, type UniformScheme } from "../../../train/quant/weight_only.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;

for (const kind of ["int8", "int4", "hqq", "nf4", "fp4"] as const) {
  Deno.test(`a split weight in ${kind} is exact in the channels that are kept`, async () => {
    const [rows, columns] = [24, 128];
    const numbers = randomNumbers(rows * columns, 1);
    // Channels that stand out.
    for (let row = 0; row < rows; row++) for (const c of [5, 77]) numbers[row * columns + c] *= 30;
    const weight = tensor(device, numbers, [rows, columns]);
    const rest: UniformScheme = { kind };
    const split = await quantizeWeight(weight, { kind: "split", rest, share: 2 / columns });
    assert(split instanceof OutlierTensor);
    assertEquals(await split.choice.columns.read(), Int32Array.of(5, 77));
    assertEquals(split.bytes, split.rest.bytes + 2 * 2 * rows + 4 * 2);
    const dense = await split.dequantize().read() as Float32Array;
    const plain = await (await quantizeWeight(weight, rest)).dequantize().read() as Float32Array;
    let [mixed, alone] = [0, 0];
    for (let i = 0; i < numbers.length; i++) {
      if ([5, 77].includes(i % columns)) {
        assert(Math.abs(dense[i] - numbers[i]) <= 2 ** -10 * Math.abs(numbers[i]), `${i}`);
      } else {
        mixed += (dense[i] - numbers[i]) ** 2;
        alone += (plain[i] - numbers[i]) ** 2;
      }
    }
    // Without them the others' scales are small.
    assert(mixed < 0.1 * alone, `${mixed}, ${alone} without the split`);

    const x = tensor(device, randomNumbers(3 * columns, 2), [3, columns]);
    const add = tensor(device, randomNumbers(3 * rows, 3), [3, rows]);
    x.requiresGrad = true;
    const y = split.multiply(x, { add });
    const [xs, adds] = await Promise.all([x.read(), add.read()]);
    const wanted = Float64Array.from({ length: 3 * rows }, (_, i) => {
      const [m, n] = [Math.floor(i / rows), i % rows];
      let total = adds[i];
      for (let k = 0; k < columns; k++) total += xs[m * columns + k] * dense[n * columns + k];
      return total;
    });
    assertRelativeError(await y.read(), wanted, 1e-5, "product");
    const g = randomNumbers(3 * rows, 4);
    backward(sum(mul(y, tensor(device, g, [3, rows]))));
    const slopes = Float64Array.from({ length: 3 * columns }, (_, i) => {
      const [m, k] = [Math.floor(i / columns), i % columns];
      let total = 0;
      for (let n = 0; n < rows; n++) total += g[m * rows + n] * dense[n * columns + k];
      return total;
    });
    assertRelativeError(await x.grad!.read(), slopes, 1e-5, "gradient");
    split.dispose();
  });
}

Deno.test("a tenth of the channels in 16 bits loses less than INT4 alone", async () => {
  const model = await loadModel(device, `${ASSETS}base`);
  const ids = model.tokenizer!.encode(
    (await Deno.readTextFile(`${ASSETS}wordnet/heldout.txt`)).slice(0, 40_000),
  );
  const before = [...model.linearLayers()];
  const text = { ids: ids.subarray(0, 1024), window: 128 };
  const split = await splitLayers(model, { share: 0.1, text });
  const [, layer] = [...model.linearLayers()].at(-1)!;
  assert(layer instanceof QuantizedLinear && layer.weight instanceof OutlierTensor);
  assertEquals(layer.weight.kept.shape, [160, 45]);
  split.restore();
  [...model.linearLayers()].forEach(([path, own], i) => assert(own === before[i][1], path));

  const measured = ids.subarray(4096, 4096 + 1024);
  const compare = (schemes: ("int4" | "split")[], keep?: number) =>
    compareSchemes(model, measured, { schemes, keep, window: 128, calibration: text });
  const [int4, more] = await compare(["int4", "split"]);
  const [most] = await compare(["split"], 0.4);
  assert(more.divergence < 0.9 * int4.divergence, `${more.divergence}, ${int4.divergence}`);
  assert(most.divergence < 0.9 * more.divergence, `${most.divergence}, ${more.divergence}`);
  assert(int4.bytes < more.bytes && more.bytes < most.bytes && more.sqnr! > int4.sqnr!);
  const [byWeights, alone] = await measurePolicies(
    model,
    ["int4+10%", "int4"].map((otherwise) => ({ rules: [], otherwise })),
    { ids: measured, window: 128 },
  );
  assert(
    byWeights.divergence < alone.divergence && byWeights.bytes === more.bytes - plainBytes(model),
  );
});

/** Bytes of what is never quantized. */
function plainBytes(model: LanguageModel): number {
  let bytes = model.weightBytes;
  for (const [, layer] of model.linearLayers()) bytes -= layer.weightBytes;
  return bytes;
}

Deno.test("splits have names, and shares that keep nothing or everything are refused", async () => {
  const scheme = { kind: "split", rest: { kind: "int4", groupSize: 32 }, share: 0.025 } as const;
  assertEquals(parseScheme("int4-g32+2.5%"), scheme);
  assertEquals(showScheme(scheme), "int4-g32+2.5%");
  for (const name of ["int4+0%", "int4+100%", "f32+10%", "int4+1%+1%"]) {
    assertThrows(() => parseScheme(name), RangeError, "int4+10%");
  }
  const model = await loadModel(device, `${ASSETS}base`);
  for (const share of [0, 1, NaN, -1]) {
    await assertRejects(() => splitLayers(model, { share }), RangeError, "wanted a number above 0");
  }
  const empty = { ids: new Int32Array(0) };
  await assertRejects(() => splitLayers(model, { text: empty }), RangeError, "0 tokens");
});
