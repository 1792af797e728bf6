import { findAdapter, openAdapter } from "../../../core/adapter.ts";
import { Device } from "../../../core/device.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { gemvRef } from "../../../kernels/linear/gemv_ref.ts";
import { multiplyGated, multiplyMany, type Weight } from "../../../kernels/linear/multiply_many.ts";
import { rmsNormRef } from "../../../kernels/norm/rms_norm_ref.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { ggufBlocks } from "../../../kernels/quant/gguf_block.ts";
import { quantizeInteger } from "../../../kernels/quant/integer.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device as shared, randomNumbers } from "../../device.ts";
import { randomBlocks } from "../../gguf_blocks.ts";

/** The device as it is, and as a GPU without subgroups, which any device can stand in for. */
async function devices(): Promise<Device[]> {
  const { gpu, description } = await openAdapter((await findAdapter())!);
  return [shared, new Device(gpu, { ...description, type: "gpu", subgroups: false })];
}

const random = (device: Device, shape: number[], seed: number, deviation = 1): Tensor =>
  tensor(device, randomNumbers(shape.reduce((a, b) => a * b), seed, deviation), shape);

const blocksOf = (device: Device, type: "Q4_0" | "Q8_0", shape: [number, number], seed: number) =>
  ggufBlocks(device, randomBlocks(type, shape[0] * shape[1] / 32, seed, 1e-2), shape, type);

async function weightsOf(device: Device, k: number): Promise<Weight[]> {
  return [
    random(device, [12, k], 1),
    await quantizeFourBit(random(device, [20, k], 2)),
    await quantizeFourBit(random(device, [7, k], 3), { doubleQuant: true }),
    quantizeInteger(device, randomNumbers(9 * k, 4), [9, k], { type: "int8" }),
    quantizeInteger(device, randomNumbers(16 * k, 5), [16, k], { type: "int4", groupSize: 24 }),
    blocksOf(device, "Q4_0", [10, k], 6),
  ];
}

const denseOf = (w: Weight) => ("dequantize" in w ? w.dequantize() : w).read();

Deno.test("multiplyMany() is the products, with norm and biases, in one dispatch on a GPU", async () => {
  const [m, k] = [3, 192];
  for (const device of await devices()) {
    const all = await weightsOf(device, k);
    const x = random(device, [1, m, k], 6);
    const gain = random(device, [k], 7);
    const normed = rmsNormRef(await x.read(), await gain.read(), m, k, 1e-6);
    for (const weights of [all.slice(0, 3), all.slice(3), all.slice(2), all]) {
      const biases = weights.map(({ shape }, i) => i % 2 ? random(device, [shape[0]], i) : null);
      const before = device.counters.dispatches;
      const found = multiplyMany(x, weights, { norm: { gain, epsilon: 1e-6 }, biases });
      device.flush();
      if (device.adapter.type === "gpu" && weights.length <= 3) {
        assertEquals(device.counters.dispatches - before, 1);
      }
      for (let i = 0; i < weights.length; i++) {
        const n = weights[i].shape[0];
        const expected = gemvRef(normed, await denseOf(weights[i]), { rows: m, n, k });
        const bias = await biases[i]?.read();
        if (bias) expected.forEach((_, at) => expected[at] += bias[at % n]);
        assertEquals(found[i].shape, [1, m, n]);
        assertRelativeError(await found[i].read(), expected, 2e-6, `${device.adapter.type} ${i}`);
      }
    }
  }
});

Deno.test("multiplyMany() adds a residual to one product", async () => {
  const [m, k] = [1, 96];
  for (const device of await devices()) {
    for (const w of await weightsOf(device, k)) {
      const n = w.shape[0];
      const x = random(device, [m, k], 8);
      const add = random(device, [m, n], 9);
      const [y] = multiplyMany(x, [w], { add });
      const dims = { rows: m, n, k, add: await add.read() };
      const expected = gemvRef(await x.read(), await denseOf(w), dims);
      assertRelativeError(await y.read(), expected, 1e-6, device.adapter.type);
    }
  }
  const [w] = await weightsOf(shared, k);
  const x = random(shared, [m, k], 8);
  assertThrows(() => multiplyMany(x, [w, w], { add: x }), RangeError, "pass one weight");
  assertThrows(
    () => multiplyMany(random(shared, [1, 8], 1), [w]),
    RangeError,
    "inner sizes are 8 and 96",
  );
});

Deno.test("multiplyGated() gates, with norm", async () => {
  const [m, n, k] = [2, 24, 128];
  for (const device of await devices()) {
    const [gate, up] = [10, 11].map((seed) => random(device, [n, k], seed, 0.2));
    const four = [await quantizeFourBit(gate), await quantizeFourBit(up, { doubleQuant: true })];
    const x = random(device, [m, k], 12);
    const gain = random(device, [k], 13);
    const normed = rmsNormRef(await x.read(), await gain.read(), m, k, 1e-5);
    const blocks = [14, 15].map((seed) => blocksOf(device, "Q4_0", [n, k], seed));
    // Weights of a unit are not the same columns in all formats.
    const [apart, natural] = [blocks[0], blocksOf(device, "Q8_0", [n, k], 16)];
    const pairs = [[gate, up], four, blocks, [gate, four[1]], [apart, natural], [four[0], apart]];
    for (const [i, [g, u]] of (pairs as [Weight, Weight][]).entries()) {
      const [left, right] = await Promise.all(
        [g, u].map(async (w) => gemvRef(normed, await denseOf(w), { rows: m, n, k })),
      );
      const expected = left.map((value, i) => value / (1 + Math.exp(-value)) * right[i]);
      const before = device.counters.dispatches;
      const y = multiplyGated(x, g, u, { norm: { gain } });
      device.flush();
      if (device.adapter.type === "gpu") {
        assertEquals(device.counters.dispatches - before === 1, i < 3, `pair ${i}`);
      }
      assertRelativeError(await y.read(), expected, 1e-6, device.adapter.type);
    }
  }
});

Deno.test("multiplyMany() and multiplyGated() leave gradients to the separate ops", () => {
  const x = random(shared, [2, 64], 14);
  const w = random(shared, [8, 64], 15);
  w.requiresGrad = true;
  assertEquals(multiplyMany(x, [w])[0].node?.label, "matmul");
  assertEquals(multiplyGated(x, w, w).node?.label, "silu_gate");
});
