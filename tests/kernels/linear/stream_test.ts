import { empty, tensor } from "../../../core/tensor.ts";
import { gemvRef } from "../../../kernels/linear/gemv_ref.ts";
import { ggufFormat } from "../../../kernels/linear/gguf_format.ts";
import { type StreamPlan, streamSource } from "../../../kernels/linear/stream.ts";
import { streamProduct } from "../../../kernels/linear/stream_product.ts";
import {
  denseFormat,
  fourBitFormat,
  integerFormat,
  type WeightFormat,
} from "../../../kernels/linear/weight_format.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { ggufBlocks } from "../../../kernels/quant/gguf_block.ts";
import { GGUF_BLOCKS, type GgufBlockType } from "../../../kernels/quant/gguf_types.ts";
import { quantizeInteger } from "../../../kernels/quant/integer.ts";
import { assert, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { randomBlocks } from "../../gguf_blocks.ts";

/** Plans that run everywhere, and those that need subgroups of 32 lanes. */
function plans(): StreamPlan[] {
  const all: StreamPlan[] = [
    { combine: "workgroup", lanes: 128, rows: 2, ahead: 1, share: false },
    { combine: "workgroup", lanes: 8, rows: 1, ahead: 2, share: false },
  ];
  if (device.adapter.subgroups) {
    all.push(
      { combine: "subgroup", lanes: 128, rows: 8, ahead: 2, share: true },
      { combine: "subgroup", lanes: 64, rows: 4, ahead: 1, share: true },
      { combine: "subgroup", lanes: 32, rows: 1, ahead: 3, share: false },
    );
  }
  return all;
}

/** Whether x · Wᵀ + add with a weight that decodes to `dense` is the reference's, in every plan. */
async function checkPlans(
  [m, n, k]: readonly [number, number, number],
  format: WeightFormat,
  dense: ArrayLike<number>,
  seed: number,
  name: string,
): Promise<void> {
  const [x, add] = [randomNumbers(m * k, seed), randomNumbers(m * n, seed + 1)];
  const expected = gemvRef(x, dense, { rows: m, n, k, add });
  for (const plan of plans()) {
    const out = tensor(device, new Float32Array(m * n).fill(NaN), [m, n]);
    streamProduct({
      x: tensor(device, x, [m, k]),
      m,
      formats: [format],
      outs: [out],
      add: tensor(device, add, [m, n]),
    }, plan);
    const what = `${m}x${n}x${k} ${name} ${JSON.stringify(plan)}`;
    assertRelativeError(await out.read(), expected, 1e-6, what);
  }
}

Deno.test("streamProduct() matches the reference for 4-bit weights, in every plan", async () => {
  for (
    const [m, n, k, words] of [[1, 5, 96, 1], [2, 33, 576, 2], [3, 20, 1088, 1], [
      8,
      9,
      2048,
      1,
    ]] as const
  ) {
    for (const doubleQuant of [false, true]) {
      const type = doubleQuant === (m === 1) ? "fp4" : "nf4";
      const w = await quantizeFourBit(randomTensor([n, k], 1), { type, doubleQuant });
      const dense = await w.dequantize().read();
      await checkPlans([m, n, k], fourBitFormat(w, words), dense, 2, w.scheme);
    }
  }
});

Deno.test("streamProduct() matches the reference for integers in groups, in every plan", async () => {
  // Groups of whole powers of two of units, of others, and a shorter last one; of each with all zeros in the middle, and not.
  for (
    const [m, n, k, type, groupSize, unit] of [
      [1, 37, 512, "int4", 64, 16],
      [1, 9, 4096, "int4", 64, 16],
      [2, 5, 1120, "int4", 64, 16],
      [3, 20, 288, "int4", 48, 8],
      [8, 9, 1088, "int4", 32, 8],
      [1, 18, 1056, "int8", 32, 8],
      [2, 21, 640, "int3", 128, 16],
      [1, 12, 704, "int2", 64, 16],
    ] as const
  ) {
    for (const range of ["asymmetric", "symmetric"] as const) {
      const weights = randomNumbers(n * k, 40);
      const w = quantizeInteger(device, weights, [n, k], { type, groupSize, range });
      const dense = await w.dequantize().read();
      const name = `${type} by ${groupSize} ${range}`;
      await checkPlans([m, n, k], integerFormat(w, unit), dense, 41, name);
    }
  }
});

Deno.test("streamProduct() matches the reference for GGUF's blocks, in every plan", async () => {
  for (const type of Object.keys(GGUF_BLOCKS) as GgufBlockType[]) {
    const { weights } = GGUF_BLOCKS[type];
    for (const [m, n, blocks] of [[1, 13, 4096 / weights], [2, 9, 768 / weights], [7, 5, 3]]) {
      const k = blocks * weights;
      const w = ggufBlocks(device, randomBlocks(type, n * blocks, m, 1e-2), [n, k], type);
      const dense = await w.dequantize().read();
      await checkPlans([m, n, k], ggufFormat(w), dense, 51, type);
    }
  }
});

Deno.test("streamProduct() matches the reference for f32, in every plan", async () => {
  for (const [m, n, k] of [[1, 5, 4], [2, 33, 132], [3, 20, 1088], [8, 9, 516]]) {
    const [x, w, add] = [m * k, n * k, m * n].map((size, i) => randomNumbers(size, 20 + i));
    const expected = gemvRef(x, w, { rows: m, n, k, alpha: 0.5, add });
    for (const plan of plans()) {
      const out = tensor(device, new Float32Array(m * n).fill(NaN), [m, n]);
      streamProduct({
        x: tensor(device, x, [m, k]),
        m,
        formats: [denseFormat(tensor(device, w, [n, k]))],
        outs: [out],
        alpha: 0.5,
        add: tensor(device, add, [m, n]),
      }, plan);
      const what = `${m}x${n}x${k} ${JSON.stringify(plan)}`;
      assertRelativeError(await out.read(), expected, 1e-6, what);
    }
  }
});

Deno.test("streamProduct() computes several weights of different formats in one dispatch", async () => {
  const [m, k, sizes] = [2, 320, [24, 5, 17]];
  const weights = sizes.map((n, i) => randomTensor([n, k], 4 + i));
  const nf4 = await quantizeFourBit(weights[1]);
  const nested = await quantizeFourBit(weights[2], { doubleQuant: true });
  const formats = [
    denseFormat(weights[0]),
    fourBitFormat(nf4, 1),
    fourBitFormat(nested, 2),
  ];
  const dense = await Promise.all(
    [weights[0], nf4.dequantize(), nested.dequantize()].map((t) => t.read()),
  );
  const x = randomNumbers(m * k, 7);
  const gain = randomNumbers(k, 8);
  const epsilon = 1e-5;
  const normed = Float64Array.from(x, (value, i) => {
    const row = x.subarray(i - i % k, i - i % k + k);
    const mean = row.reduce((sum, own) => sum + own * own, 0) / k;
    return value * gain[i % k] / Math.sqrt(mean + epsilon);
  });
  for (const plan of plans()) {
    const outs = sizes.map((n) => empty(device, [m, n]));
    const norm = { gain: tensor(device, gain), epsilon };
    streamProduct({ x: tensor(device, x, [m, k]), m, formats, outs, norm }, plan);
    for (let i = 0; i < 3; i++) {
      const expected = gemvRef(normed, dense[i], { rows: m, n: sizes[i], k });
      assertRelativeError(await outs[i].read(), expected, 1e-6, `${i} ${JSON.stringify(plan)}`);
    }
  }
});

Deno.test("streamProduct() gates", async () => {
  const [m, n, k] = [2, 19, 128];
  const [gate, up] = [9, 10].map((seed) => randomTensor([n, k], seed, 0.2));
  const quantized = [await quantizeFourBit(gate), await quantizeFourBit(up, { doubleQuant: true })];
  const x = randomNumbers(m * k, 11);
  const integers = [64, 32].map((groupSize, i) =>
    quantizeInteger(device, randomNumbers(n * k, 12 + i), [n, k], { type: "int4", groupSize })
  );
  for (
    const [formats, weights] of [
      [[gate, up].map((w) => denseFormat(w)), [gate, up]],
      [quantized.map((w) => fourBitFormat(w, 1)), quantized.map((w) => w.dequantize())],
      [integers.map((w) => integerFormat(w, 16)), integers.map((w) => w.dequantize())],
    ] as const
  ) {
    const [g, u] = await Promise.all(
      weights.map(async (t) => gemvRef(x, await t.read(), { rows: m, n, k })),
    );
    const expected = g.map((value, i) => value / (1 + Math.exp(-value)) * u[i]);
    for (const plan of plans()) {
      const out = empty(device, [m, n]);
      streamProduct(
        { x: tensor(device, x, [m, k]), m, formats, outs: [out], gated: true },
        plan,
      );
      assertRelativeError(await out.read(), expected, 1e-6, JSON.stringify(plan));
    }
  }
});

Deno.test("the source of every plan is WGSL, those for subgroups too, which this device may not have", async () => {
  const nested = fourBitFormat(
    await quantizeFourBit(randomTensor([8, 256], 1), { doubleQuant: true }),
    1,
  );
  const integers = (groupSize: number) =>
    integerFormat(
      quantizeInteger(device, randomNumbers(8 * 256, 1), [8, 256], { type: "int4", groupSize }),
      16,
    );
  const blocks = (type: GgufBlockType) => {
    const bytes = randomBlocks(type, 8 * 256 / GGUF_BLOCKS[type].weights, 1, 1e-2);
    return ggufFormat(ggufBlocks(device, bytes, [8, 256], type));
  };
  for (
    const [rows, m, gated, norm] of [[8, 4, false, true], [8, 4, true, true], [
      4,
      8,
      true,
      false,
    ]] as const
  ) {
    const task = { m, ragged: true, gated, norm, add: false };
    for (
      const formats of [
        [nested, nested, nested],
        [integers(64), integers(32), integers(16)],
        [blocks("Q4_1"), blocks("Q5_0"), blocks("Q4_0")],
        [blocks("Q6_K"), blocks("Q4_K"), blocks("Q8_0")],
      ]
    ) {
      for (const share of [false, true]) {
        const code = streamSource(
          gated ? formats.slice(0, 2) : formats,
          { ...task, biases: formats.map(() => false).slice(gated ? 2 : 0) },
          { combine: "subgroup", lanes: 64, rows, ahead: 1, share },
        );
        device.gpu.pushErrorScope("validation");
        device.gpu.createShaderModule({ code });
        const error = await device.gpu.popErrorScope();
        assert(!error?.message.includes("parsing error"), error?.message ?? "");
      }
    }
  }
});
