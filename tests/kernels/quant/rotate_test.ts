import { tensor } from "../../../core/tensor.ts";
import { rotate, rotationSize } from "../../../kernels/quant/rotate.ts";
import { rotateRef } from "../../../kernels/quant/rotate_ref.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

/** Factors for so many columns, none of them near 0. */
const factors = (columns: number, seed: number) =>
  randomNumbers(columns, seed).map((x) => x + Math.sign(x));

Deno.test("rotate() matches the reference, with gradients", async () => {
  await onBoth(async () => {
    for (
      const [rows, columns, size] of [[1, 1, 1], [3, 6, 2], [2, 64, 16], [5, 192, 64], [
        2,
        512,
        512,
      ]]
    ) {
      const [before, after] = [factors(columns, 2), factors(columns, 3)];
      const rotation = { before: tensor(device, before), after: tensor(device, after), size };
      await checkOp(
        [{ data: randomNumbers(rows * columns, 1), shape: [rows, columns] }],
        (x) => rotate(x, rotation),
        (x) => rotateRef(x, before, after, size),
        { every: Math.ceil(rows * columns * size / 4096) },
      );
    }
  });
});

Deno.test("rotate() goes back with factors that are swapped and inverted, and keeps lengths", async () => {
  const [before, after] = [factors(96, 4), factors(96, 5)];
  const inverse = (x: Float32Array) => tensor(device, x.map((own) => 1 / own));
  const there = { before: tensor(device, before), after: tensor(device, after), size: 32 };
  const back = { before: inverse(after), after: inverse(before), size: 32 };
  const x = randomTensor([2, 3, 96], 6);
  const turned = rotate(x, there);
  assertEquals(turned.shape, x.shape);
  const numbers = await x.read() as Float32Array;
  assertRelativeError(await rotate(turned, back).read(), numbers, 1e-6);
  const ones = tensor(device, new Float32Array(96).fill(1));
  const plain = await rotate(x, { before: ones, after: ones, size: 32 }).read() as Float32Array;
  const length = (row: Float32Array) => Math.hypot(...row);
  assertRelativeError([length(plain)], [length(numbers)], 1e-6);
});

Deno.test("rotationSize() is a power of two, and rotate() refuses what is none", () => {
  assertEquals([1, 7, 96, 576, 1536, 4096, 11_008].map(rotationSize), [
    1,
    1,
    32,
    64,
    512,
    512,
    256,
  ]);
  const ones = (count: number) => tensor(device, new Float32Array(count).fill(1));
  const x = randomTensor([2, 96], 1);
  for (const size of [64, 3, 0, -2, 0.5, NaN]) {
    const rotation = { before: ones(96), after: ones(96), size };
    assertThrows(() => rotate(x, rotation), RangeError, "wanted a power of two that divides them");
  }
  const long = { before: ones(1024), after: ones(1024), size: 1024 };
  assertThrows(() => rotate(randomTensor([1, 1024], 1), long), RangeError, "512 at most");
  const few = { before: ones(95), after: ones(96), size: 32 };
  assertThrows(() => rotate(x, few), RangeError, "before");
});
