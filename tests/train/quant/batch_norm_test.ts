import { backward, noGrad } from "../../../core/autograd.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { conv2dRef } from "../../../kernels/conv/conv2d_ref.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { batchNormRef, batchStatisticsRef } from "../../../kernels/norm/batch_norm_ref.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { loadModel } from "../../../train/models/load.ts";
import { BatchNorm } from "../../../train/nn/batch_norm.ts";
import { Conv2d } from "../../../train/nn/conv2d.ts";
import { Linear } from "../../../train/nn/linear.ts";
import { BatchNormQat, foldBatchNorm } from "../../../train/quant/batch_norm.ts";
import { foldNormGains } from "../../../train/quant/norm_gains.ts";
import { roundWeights } from "../../../train/quant/round_weights.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device, randomIntegers, randomNumbers, randomTensor } from "../../device.ts";

const CHANNELS = 6;

/** Gains of both signs, and variances from 0.01 to 100. */
function someNorm(gain?: Float32Array): BatchNorm {
  const spread = Float32Array.from({ length: CHANNELS }, (_, i) => 10 ** (i * 4 / 5 - 2));
  return new BatchNorm({
    weight: tensor(device, gain ?? randomNumbers(CHANNELS, 1)),
    bias: randomTensor([CHANNELS], 2),
    running: { mean: randomTensor([CHANNELS], 3), variance: tensor(device, spread) },
    epsilon: 1e-3,
  });
}

const LAYERS = [
  () => new Linear(randomTensor([CHANNELS, 12], 4), randomTensor([CHANNELS], 5)),
  () => new Linear(randomTensor([CHANNELS, 12], 4)),
  () => new Conv2d(randomTensor([CHANNELS, 3, 3, 2], 4), randomTensor([CHANNELS], 5), MOVES),
  () => new Conv2d(randomTensor([CHANNELS, 3, 3, 2], 4)),
];
const MOVES = { stride: 2, padding: 1 };

const inputOf = (layer: Linear | Conv2d) =>
  layer instanceof Linear ? randomTensor([9, 12], 6) : randomTensor([3, 5, 5, 2], 6);

/** What layer and normalization give in float64, by the running statistics or the batch's own. */
async function expected(layer: Linear | Conv2d, norm: BatchNorm, training = false) {
  const x = inputOf(layer);
  const bias = await layer.bias?.read() ?? new Float32Array(CHANNELS);
  const [xs, ws] = await Promise.all([x.read(), layer.weight.read()]);
  const { stride = 1, padding = 0 } = layer instanceof Conv2d ? layer.moves : {};
  const shapes = { x: x.shape, weight: layer.weight.shape, stride, padding };
  const y = layer instanceof Linear
    ? matmulRef(xs, ws, { m: 9, n: CHANNELS, k: 12, transposeB: true })
      .map((v, i) => v + bias[i % CHANNELS])
    : conv2dRef(xs, ws, bias, shapes);
  const [gain, shift, mean, variance] = await Promise.all(
    [norm.weight, norm.bias, norm.running.mean, norm.running.variance].map((t) => t.read()),
  );
  const statistics = training ? batchStatisticsRef(y, CHANNELS) : { mean, variance };
  return batchNormRef(y, gain, shift, statistics, norm.epsilon);
}

Deno.test("foldBatchNorm() gives a layer that computes what layer and normalization did", async () => {
  for (const make of LAYERS) {
    const [layer, norm] = [make(), someNorm()];
    const folded = await foldBatchNorm(layer, norm);
    assertEquals(folded.constructor, layer.constructor);
    const wanted = await expected(layer, norm);
    assertRelativeError(await folded.forward(inputOf(layer)).read(), wanted, 1e-6, "folded");
    assertRelativeError(
      await norm.forward(layer.forward(inputOf(layer))).read(),
      wanted,
      1e-6,
      "apart",
    );
  }
});

Deno.test("BatchNormQat with fine steps is layer and normalization, in training and out of it", async () => {
  for (const make of LAYERS) {
    for (const training of [false, true]) {
      const [layer, norm] = [make(), someNorm()];
      const wanted = await expected(layer, norm, training);
      const qat = new BatchNormQat(layer, norm, { bits: 8, per: "channel" });
      const y = await qat.forward(inputOf(layer), training).read();
      // 8 bits: steps of 1/127 of a channel's largest weight.
      assertRelativeError(y, wanted, 0.03);
    }
  }
});

/** What training sees in float64: the scaled weight rounded, the output un-scaled, the batch's own statistics. */
async function qatExpected(layer: Linear, norm: BatchNorm, most: number, training: boolean) {
  const read = (t: Tensor) => t.read();
  const [x, w, gain, shift, mean, variance] = await Promise.all(
    [inputOf(layer), layer.weight, norm.weight, norm.bias, norm.running.mean, norm.running.variance]
      .map(read),
  );
  const bias = await layer.bias?.read() ?? new Float32Array(CHANNELS);
  const rounded = new Float64Array(w.length);
  const factors = Array.from(gain, (g, c) => g / Math.sqrt(variance[c] + norm.epsilon));
  for (const [c, factor] of factors.entries()) {
    const scaled = Array.from(w.subarray(12 * c, 12 * c + 12), (v) => v * factor);
    const step = Math.max(...scaled.map(Math.abs)) / most;
    rounded.set(scaled.map((v) => Math.round(v / step) * step), 12 * c);
  }
  const y = matmulRef(x, rounded, { m: 9, n: CHANNELS, k: 12, transposeB: true })
    .map((v, i) => v / factors[i % CHANNELS] + bias[i % CHANNELS]);
  const statistics = training ? batchStatisticsRef(y, CHANNELS) : { mean, variance };
  return batchNormRef(y, gain, shift, statistics, norm.epsilon);
}

Deno.test("BatchNormQat computes in QAT's order, as float64 does", async () => {
  for (const make of LAYERS.slice(0, 2)) {
    for (const training of [true, false]) {
      for (const bits of [2, 4, 8]) {
        const [layer, norm] = [make() as Linear, someNorm()];
        const wanted = await qatExpected(layer, norm, 2 ** (bits - 1) - 1, training);
        const qat = new BatchNormQat(layer, norm, { bits, per: "channel" });
        const y = await qat.forward(inputOf(layer), training).read();
        assertRelativeError(y, wanted, 2e-6, `${bits} bits, training ${training}`);
      }
    }
  }
});

Deno.test("BatchNormQat.convert() gives whole numbers times scales, and the outputs that training saw", async () => {
  for (const make of LAYERS) {
    for (const rounding of [{ bits: 4, per: "channel" }, { bits: 4, per: "tensor" }] as const) {
      const [layer, norm] = [make(), someNorm()];
      const qat = new BatchNormQat(layer, norm, rounding);
      const before = await qat.forward(inputOf(layer)).read();
      const { layer: converted, codes, scales } = await qat.convert();
      const after = await converted.forward(inputOf(layer)).read();
      assertRelativeError(after, before, 2e-6);
      assertEquals(scales.length, rounding.per === "channel" ? CHANNELS : 1);
      assert(
        codes.every((code) => Math.abs(code) <= 7) && codes.some((code) => Math.abs(code) === 7),
      );
      const each = codes.length / scales.length;
      const decoded = Float32Array.from(
        codes,
        (c, i) => Math.fround(c * scales[Math.floor(i / each)]),
      );
      assertRelativeError(await converted.weight.read(), decoded, 1e-7);
      // The same as folding, and rounding what came out.
      const folded = await foldBatchNorm(layer, norm);
      const { weight } = roundWeights(folded.weight, rounding);
      assertRelativeError(await converted.weight.read(), await weight.read(), 1e-6);
      assertRelativeError(await converted.bias!.read(), await folded.bias!.read(), 1e-7);
    }
  }
});

Deno.test("BatchNormQat's gradients are those of layer and normalization where rounding costs nothing", async () => {
  // Weights that are whole numbers of steps after scaling: all factors are 1, codes up to 7 in each channel.
  const whole = (seed: number) => {
    const numbers = Float32Array.from(randomIntegers(CHANNELS * 12, 15, seed), (v) => v - 7);
    for (let c = 0; c < CHANNELS; c++) numbers[12 * c] = 7;
    return numbers;
  };
  const make = () => {
    const norm = new BatchNorm({
      weight: tensor(device, new Float32Array(CHANNELS).fill(2)),
      bias: randomTensor([CHANNELS], 2),
      running: {
        mean: randomTensor([CHANNELS], 3),
        variance: tensor(device, new Float32Array(CHANNELS).fill(4)),
      },
      epsilon: 0,
    });
    const layer = new Linear(tensor(device, whole(8), [CHANNELS, 12]), randomTensor([CHANNELS], 5));
    const leaves = [layer.weight, norm.weight, norm.bias];
    for (const t of leaves) t.requiresGrad = true;
    return { layer, norm, leaves };
  };
  const [plain, own] = [make(), make()];
  const qat = new BatchNormQat(own.layer, own.norm, { bits: 4, per: "channel" });
  const weights = randomTensor([9, CHANNELS], 10);
  const x = randomTensor([9, 12], 6);
  backward(sum(mul(plain.norm.forward(plain.layer.forward(x), true), weights)));
  backward(sum(mul(qat.forward(x, true), weights)));
  for (const [i, leaf] of plain.leaves.entries()) {
    assertRelativeError(
      await own.leaves[i].grad!.read(),
      await leaf.grad!.read(),
      1e-4,
      `leaf ${i}`,
    );
  }
  assertEquals(await own.norm.running.mean.read(), await plain.norm.running.mean.read());
});

Deno.test("folding spreads the ranges of channels: one scale for all suffers, one for each does not", async () => {
  const layer = new Linear(randomTensor([CHANNELS, 300], 4));
  const norm = someNorm(new Float32Array(CHANNELS).fill(1));
  const { weight } = await foldBatchNorm(layer, norm);
  const error = async (per: "tensor" | "channel", w = weight) => {
    const [rounded, own] = await Promise.all([
      roundWeights(w, { bits: 8, per }).weight.read(),
      w.read(),
    ]);
    // The worst channel's: each is normalized to the same variance, and counts alike.
    return Math.max(...Array.from({ length: CHANNELS }, (_, c) => {
      const part = (of: ArrayLike<number>) => Array.from(of).slice(300 * c, 300 * c + 300);
      const [a, b] = [part(rounded), part(own)];
      return Math.hypot(...a.map((v, i) => v - b[i])) / Math.hypot(...b);
    }));
  };
  const [perChannel, unfolded] = [await error("channel"), await error("tensor", layer.weight)];
  assert(Math.abs(await error("channel", layer.weight) / perChannel - 1) < 1e-3, "per channel");
  assert(await error("tensor") > 20 * unfolded, "per tensor");
});

Deno.test("foldBatchNorm() and convert() refuse what does not fit, NaN, and gains of 0", async () => {
  const [layer] = LAYERS.map((make) => make());
  const other = new Linear(randomTensor([CHANNELS + 1, 12], 4));
  await assertRejects(
    () => foldBatchNorm(other, someNorm()),
    RangeError,
    "6 channels into a layer that gives 7",
  );
  const broken = randomNumbers(CHANNELS, 1);
  broken[2] = NaN;
  await assertRejects(
    () => foldBatchNorm(layer, someNorm(broken)),
    RangeError,
    "weight is NaN at channel 2",
  );
  const withVariance = (variance: number, epsilon: number) => {
    const norm = someNorm();
    const of = Float32Array.from({ length: CHANNELS }, (_, i) => i === 4 ? variance : 1);
    return new BatchNorm({
      ...norm,
      running: { ...norm.running, variance: tensor(device, of) },
      epsilon,
    });
  };
  await assertRejects(
    () => foldBatchNorm(layer, withVariance(-0.5, 1)),
    RangeError,
    "variance is -0.5 at channel 4",
  );
  await assertRejects(
    () => foldBatchNorm(layer, withVariance(0, 0)),
    RangeError,
    "variance is 0 at channel 4",
  );
  assert(
    (await (await foldBatchNorm(layer, withVariance(0, 1e-5))).weight.read()).every(
      Number.isFinite,
    ),
  );
  const none = randomNumbers(CHANNELS, 1);
  none[3] = 0;
  // A gain of 0 folds into weights of 0.
  const folded = await foldBatchNorm(layer, someNorm(none));
  assert((await folded.weight.read()).subarray(36, 48).every((w) => w === 0));
  const qat = new BatchNormQat(layer, someNorm(none), { bits: 4, per: "channel" });
  await assertRejects(() => qat.convert(), RangeError, "gain is 0 at channel 3");
});

Deno.test("roundWeights() keeps zeros zero, and refuses 1 and 9 bits", async () => {
  const zero = roundWeights(tensor(device, new Float32Array(6), [2, 3]), {
    bits: 4,
    per: "channel",
  });
  assertEquals(Array.from(await zero.weight.read()), [0, 0, 0, 0, 0, 0]);
  for (const bits of [1, 9]) {
    assertThrows(
      () => roundWeights(randomTensor([2, 3], 1), { bits, per: "tensor" }),
      RangeError,
      `${bits} bits`,
    );
  }
});

Deno.test("foldNormGains() leaves logits equal, gains 1, and puts them back", async () => {
  for (const name of ["llama", "gpt2"]) {
    const folder = name === "llama" ? "../../../assets/base" : "../../golden/gpt2";
    const model = await loadModel(device, new URL(folder, import.meta.url).pathname);
    const ids = tensor(device, randomIntegers(32, model.config.vocabSize, 1), [2, 16]);
    const logits = () => noGrad(() => model.forward(ids)).read();
    const before = await logits();
    const { norms, restore } = await foldNormGains(model);
    assertEquals(norms.length, 2 * model.config.layers);
    const modules = new Map(model.modules());
    for (const path of norms) {
      const [[, gain]] = [...modules.get(path)!.tensors()];
      // A GPU does not always divide a number by itself to 1.
      assert((await gain.read()).every((g) => Math.abs(g - 1) < 1e-6), path);
    }
    assertRelativeError(await logits(), before, 1e-5, name);
    restore();
    assertEquals(await logits(), before);
    const live = device.memory.live;
    const { commit } = await foldNormGains(model);
    commit();
    assert(device.memory.live < live + 1000, "the copies are freed");
    model.dispose();
  }
});

Deno.test("foldNormGains() refuses quantized layers and adapters", async () => {
  const base = new URL("../../../assets/base", import.meta.url).pathname;
  const quantized = await loadModel(device, base, { quantize: "nf4" });
  await assertRejects(() => foldNormGains(quantized), TypeError, "into quantized weights");
  const adapted = await loadModel(device, base);
  addLora(adapted, { r: 2, alpha: 2 });
  await assertRejects(() => foldNormGains(adapted), TypeError, "has an adapter");
});
