import { tensor } from "../../../core/tensor.ts";
import { cast } from "../../../kernels/pointwise/cast.ts";
import { castRef } from "../../../kernels/pointwise/cast_ref.ts";
import { dropout } from "../../../kernels/pointwise/dropout.ts";
import { dropoutRef } from "../../../kernels/pointwise/dropout_ref.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { reshape } from "../../../kernels/pointwise/reshape.ts";
import { scale } from "../../../kernels/pointwise/scale.ts";
import { scaleRef } from "../../../kernels/pointwise/scale_ref.ts";
import { siluGate } from "../../../kernels/pointwise/silu_gate.ts";
import { siluGateRef } from "../../../kernels/pointwise/silu_gate_ref.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("scale() matches the reference", async () => {
  await onBoth(async () => {
    await checkOp(
      [{ data: randomNumbers(100, 1), shape: [10, 10] }],
      (x) => scale(x, -2.5),
      (x) => scaleRef(x, -2.5),
    );
  });
});

Deno.test("siluGate() matches the reference, also far from zero", async () => {
  const gate = randomNumbers(130, 1, 3);
  gate.set([0, 50, -50, 80, -80]);
  const up = { data: randomNumbers(130, 2), shape: [2, 65] };
  await checkOp([{ data: gate, shape: [2, 65] }, up], siluGate, siluGateRef);
});

Deno.test("reshape() keeps the elements and their gradient", async () => {
  const x = { data: randomNumbers(24, 1), shape: [2, 3, 4] };
  await checkOp(
    [x],
    (t) => reshape(mul(t, t), [6, -1]),
    (v) => Float64Array.from(v, (value) => value * value),
  );
  assertThrows(() => reshape(randomTensor([6], 1), [4, -1]), RangeError, "it has 6 elements");
  assertThrows(
    () => reshape(randomTensor([6], 1), [-1, -1]),
    RangeError,
    "Cannot reshape [6] to [-1,-1]",
  );
});

Deno.test("dropout() makes the reference's choice, forward and backward", async () => {
  const state = tensor(device, new Uint32Array([7, 3]));
  const x = { data: randomNumbers(301, 1), shape: [301] };
  await checkOp([x], (t) => dropout(t, 0.25, state, 5), (v) => dropoutRef(v, 0.25, 7, 3, 5));
});

Deno.test("dropout() keeps the share it should, and other sites and steps choose otherwise", async () => {
  const ones = tensor(device, new Float32Array(20_000).fill(1));
  const masks: TypedNumbers[] = [];
  for (const [step, site] of [[0, 0], [0, 1], [1, 0]]) {
    const state = tensor(device, new Uint32Array([1, step]));
    masks.push(await dropout(ones, 0.1, state, site).read());
  }
  for (const mask of masks) {
    const kept = mask.filter((value: number) => value > 0).length;
    // five standard deviations of a binomial count: 5 · √(20000 · 0.1 · 0.9) = 212
    assert(Math.abs(kept - 18_000) < 212, `kept ${kept}`);
  }
  const agree = (a: TypedNumbers, b: TypedNumbers) => a.every((value, i) => value === b[i]);
  assert(!agree(masks[0], masks[1]) && !agree(masks[0], masks[2]));
  assertThrows(() => dropout(ones, 1, ones, 0), RangeError, "Cannot drop with probability 1");
});

type TypedNumbers = Awaited<ReturnType<ReturnType<typeof randomTensor>["read"]>>;

Deno.test("cast() rounds to the nearest half, ties to even, and back", async () => {
  const awkward = new Float32Array([
    0,
    -0,
    1,
    -1,
    65504,
    65519,
    65520,
    1e6,
    -1e6,
    Infinity,
    -Infinity,
    6.1e-5,
    5.96e-8,
    2.98e-8,
    2.9802322387695312e-8,
    2.99e-8,
    1e-10,
    1 + 2 ** -11,
    1 + 3 * 2 ** -11,
    0.1,
    1 / 3,
    2049,
    2051,
    -6.097555160522461e-5,
    3.0517578125e-5,
  ]);
  const data = new Float32Array([
    ...awkward,
    ...randomNumbers(1000, 1, 100),
    ...randomNumbers(1000, 2, 1e-5),
  ]);
  const half = cast(tensor(device, data), "f16");
  assertEquals(half.dtype, "f16");
  const read = await half.read();
  assertEquals(Array.from(read), Array.from(castRef(data, "f16")));
  assertEquals(Array.from(await cast(half, "f32").read()), Array.from(read));
  assert(Number.isNaN((await cast(tensor(device, new Float32Array([NaN])), "f16").read())[0]));
});
