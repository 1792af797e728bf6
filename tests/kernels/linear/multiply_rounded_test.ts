import { type Tensor, tensor } from "../../../core/tensor.ts";
import { int8MatmulRef } from "../../../kernels/linear/int8_matmul_ref.ts";
import { int8Matmul } from "../../../kernels/linear/int8_matmul.ts";
import { runBytes } from "../../../kernels/linear/int8_product.ts";
import { multiplyGated, multiplyMany } from "../../../kernels/linear/multiply_many.ts";
import { rmsNorm } from "../../../kernels/norm/rms_norm.ts";
import { add } from "../../../kernels/pointwise/arithmetic.ts";
import { siluGate } from "../../../kernels/pointwise/silu_gate.ts";
import { quantizeInteger } from "../../../kernels/quant/integer.ts";
import { integerParts } from "../../../kernels/quant/integer_codes.ts";
import { type ActivationScheme, quantizeRows } from "../../../kernels/quant/quantize_rows.ts";
import { RoundingTensor } from "../../../kernels/quant/rounding_tensor.ts";
import { onBoth } from "../../as_gpu.ts";
import { assertEquals, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

const DYNAMIC: ActivationScheme = { kind: "dynamic" };
const STATIC: ActivationScheme = { kind: "static", scale: 0.021, zero: 0 };
const SHIFTED: ActivationScheme = { kind: "static", scale: 0.017, zero: -45 };
const SCHEMES = [DYNAMIC, STATIC, SHIFTED];

type Options = NonNullable<Parameters<typeof quantizeInteger>[3]>;
const INT8: Options = { type: "int8" };

function weight(n: number, k: number, options: Options, activations: ActivationScheme, seed = n) {
  const numbers = randomNumbers(n * k, seed, 0.1);
  return new RoundingTensor(quantizeInteger(device, numbers, [n, k], options), activations);
}

/** Runs something, and counts its dispatches. */
function counted<T>(run: () => T): { found: T; dispatches: number } {
  device.flush();
  const before = device.counters.dispatches;
  const found = run();
  device.flush();
  return { found, dispatches: device.counters.dispatches - before };
}

/** Checks the count where the device is described as a GPU. */
function assertDispatches(dispatches: number, wanted: number, what: string) {
  if (device.adapter.type === "gpu") assertEquals(dispatches, wanted, what);
}

const bits = async (t: Tensor) => new Uint32Array((await t.read()).slice().buffer);

async function assertSameBits(found: Tensor, wanted: Tensor, what: string) {
  assertEquals(found.shape, wanted.shape, what);
  assertEquals(await bits(found), await bits(wanted), what);
}

/** The separate ops: rounding, and one product with what it gives. */
function apart(input: Tensor, { weight, activations, sums }: RoundingTensor, add?: Tensor): Tensor {
  return runBytes(quantizeRows(input, activations), weight, { add, sums });
}

/** The product of a float64 reference with the bytes that the device makes of an input. */
async function reference(input: Tensor, { weight, activations }: RoundingTensor) {
  const [m, k] = input.shape;
  const rows = quantizeRows(input, activations);
  const ref = {
    codes: Int32Array.from(new Int8Array((await rows.codes.read()).slice().buffer)),
    scales: Float64Array.from(await rows.scales.read()),
  };
  const pairs = await weight.scales.read();
  const at = (odd: number) => [...pairs.filter((_, i) => i % 2 === odd)];
  const codes = [...(await integerParts(weight)).codes];
  const own = { codes, scales: at(0), zeros: at(1), groupSize: weight.groupSize };
  return int8MatmulRef(ref, rows.zero, own, [m, weight.shape[0], k]);
}

/** Schemes of weights, with inner sizes that have few words, a word at a time, and four. */
const FORMS: readonly [Options, number][] = [
  [INT8, 4],
  [INT8, 36],
  [INT8, 576],
  [{ type: "int8", groupSize: 32 }, 96],
  [{ type: "int4", groupSize: 8 }, 40],
  [{ type: "int4", groupSize: 64 }, 640],
];

Deno.test("weights that round alike are one dispatch on a GPU, and the separate ops to the last bit", () =>
  onBoth(async () => {
    for (const [i, [options, k]] of FORMS.entries()) {
      const gain = randomTensor([k], 1);
      const all = k === 576 ? [1, 2, 3, 4, 5, 6, 7, 8] : [1 + i % 3, 4 + i % 5];
      for (const [turn, m] of all.entries()) {
        const scheme = SCHEMES[(turn + i) % 3];
        const x = randomTensor([m, k], m);
        const normed = rmsNorm(x, gain, 1e-6);
        const weights = [1 + 4 * i, 6, 8 + m].map((n) => weight(n, k, options, scheme));
        const biases = weights.map(({ shape }, at) =>
          m % 2 && at !== 1 ? randomTensor([shape[0]], at) : null
        );
        const what = `${JSON.stringify(options)} ${JSON.stringify(scheme)} m ${m}, k ${k}`;
        const norm = { gain, epsilon: 1e-6 };
        const { found, dispatches } = counted(() => multiplyMany(x, weights, { norm, biases }));
        assertDispatches(dispatches, 1, what);
        for (const [at, w] of weights.entries()) {
          const bare = apart(normed, w);
          const bias = biases[at];
          await assertSameBits(found[at], bias ? add(bare, bias) : bare, `${what}, weight ${at}`);
          assertRelativeError(await bare.read(), await reference(normed, w), 2e-6, what);
        }
        const [gate, up] = [11, 12].map((seed) => weight(5 + m, k, options, scheme, seed));
        const gated = counted(() => multiplyGated(x, gate, up, { norm }));
        assertDispatches(gated.dispatches, 1, what);
        const wanted = siluGate(apart(normed, gate), apart(normed, up));
        await assertSameBits(gated.found, wanted, `${what}, gated`);
        const [g, u] = [await reference(normed, gate), await reference(normed, up)];
        const expected = u.map((value, at) => g[at] / (1 + Math.exp(-g[at])) * value);
        assertRelativeError(await gated.found.read(), expected, 8e-6, `${what}, gated`);
      }
    }
  }));

Deno.test("weights that round alike share what is rounded without a norm, with a residual, and in many rows", () =>
  onBoth(async () => {
    const k = 64;
    for (const m of [1, 3, 20]) {
      const x = randomTensor([1, m, k], m);
      for (const scheme of SCHEMES) {
        const weights = [5, 12].map((n) => weight(n, k, INT8, scheme));
        const { found, dispatches } = counted(() => multiplyMany(x, weights));
        if (m <= 8) assertDispatches(dispatches, 1, `m ${m}`);
        for (const [i, w] of weights.entries()) {
          await assertSameBits(found[i], apart(x, w), `m ${m}, weight ${i}`);
        }
        const residual = randomTensor([1, m, 5], 9);
        const bias = randomTensor([5], 10);
        const [y] = multiplyMany(x, weights.slice(0, 1), { add: residual, biases: [bias] });
        const wanted = add(apart(x, weights[0], residual), bias);
        await assertSameBits(y, wanted, `m ${m}, residual`);
        const layer = int8Matmul(x, weights[1].weight, { activations: scheme });
        await assertSameBits(layer, found[1], `m ${m}, alone`);
      }
    }
  }));

Deno.test("what large products multiply is rounded in a dispatch before, to the same bits", () =>
  onBoth(async () => {
    // Rows of a row's length: with norms those that one workgroup's lanes hold, and longer ones.
    for (const [m, n, k] of [[8, 1200, 576], [1, 1030, 4096], [1, 16, 4112], [2, 24, 8192]]) {
      const x = randomTensor([m, k], m);
      const gain = randomTensor([k], 1);
      const normed = rmsNorm(x, gain);
      for (const scheme of [DYNAMIC, SHIFTED]) {
        const weights = [0, 1].map((seed) => weight(n, k, INT8, scheme, seed));
        const what = `${JSON.stringify(scheme)} ${m}x${n}x${k}`;
        const { found, dispatches } = counted(() => multiplyMany(x, weights, { norm: { gain } }));
        assertDispatches(dispatches, 2, what);
        await assertSameBits(found[0], apart(normed, weights[0]), what);
        await assertSameBits(found[1], apart(normed, weights[1]), what);
        const gated = counted(() => multiplyGated(x, weights[0], weights[1]));
        assertDispatches(gated.dispatches, 2, what);
        const wanted = siluGate(apart(x, weights[0]), apart(x, weights[1]));
        await assertSameBits(gated.found, wanted, `${what}, gated`);
      }
    }
  }));

Deno.test("rows with NaN or infinity stay NaN where products share what is rounded", () =>
  onBoth(async () => {
    const k = 64;
    const numbers = randomNumbers(3 * k, 1);
    numbers[k + 7] = NaN;
    numbers[2 * k] = -Infinity;
    const x = tensor(device, numbers, [3, k]);
    for (const scheme of SCHEMES) {
      const weights = [6, 6].map((n, i) => weight(n, k, INT8, scheme, i));
      const norm = { gain: randomTensor([k], 2) };
      const outs = [
        ...multiplyMany(x, weights, { norm }),
        multiplyGated(x, weights[0], weights[1], { norm }),
      ];
      for (const out of outs) {
        (await out.read()).forEach((value, i) => assertEquals(Number.isNaN(value), i >= 6));
      }
    }
  }));

Deno.test("weights of several forms share what is rounded, and those that round differently nothing", () =>
  onBoth(async () => {
    const [m, k] = [2, 64];
    const x = randomTensor([m, k], 1);
    const norm = { gain: randomTensor([k], 2) };
    const normed = rmsNorm(x, norm.gain);
    const int4: Options = { type: "int4", groupSize: 32 };
    const cases: [what: string, weights: RoundingTensor[], dispatches: number][] = [
      ["int8 and int4", [weight(6, k, INT8, STATIC), weight(6, k, int4, STATIC)], 3],
      [
        "groups",
        [weight(6, k, int4, DYNAMIC), weight(6, k, { ...int4, groupSize: 16 }, DYNAMIC)],
        3,
      ],
      ["four weights", [1, 2, 3, 4].map((n) => weight(n, k, INT8, DYNAMIC)), 5],
      // The same number in another object.
      ["equal ranges", [weight(6, k, INT8, STATIC), weight(6, k, INT8, { ...STATIC })], 1],
      ["other ranges", [weight(6, k, INT8, STATIC), weight(6, k, INT8, SHIFTED)], 3],
      ["dynamic and static", [weight(6, k, INT8, STATIC), weight(6, k, INT8, DYNAMIC)], 3],
    ];
    for (const [what, weights, wanted] of cases) {
      const { found, dispatches } = counted(() => multiplyMany(x, weights, { norm }));
      assertDispatches(dispatches, wanted, what);
      for (const [i, w] of weights.entries()) {
        await assertSameBits(found[i], apart(normed, w), what);
      }
      if (weights.length !== 2) continue;
      const [gate, up] = weights;
      const gated = counted(() => multiplyGated(x, gate, up, { norm }));
      assertDispatches(gated.dispatches, wanted === 1 ? 1 : wanted + 1, `${what}, gated`);
      const separate = siluGate(apart(normed, gate), apart(normed, up));
      await assertSameBits(gated.found, separate, `${what}, gated`);
    }
  }));

Deno.test("weights that round what they multiply leave gradients to the separate ops", () => {
  const x = randomTensor([2, 64], 1);
  x.requiresGrad = true;
  const weights = [weight(8, 64, INT8, DYNAMIC), weight(8, 64, INT8, DYNAMIC, 3)];
  assertEquals(multiplyMany(x, weights)[0].node?.label, "int8_matmul");
  assertEquals(multiplyGated(x, weights[0], weights[1]).node?.label, "silu_gate");
});
