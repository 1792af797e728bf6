import { backward } from "../../../core/autograd.ts";
import { sizeOf } from "../../../core/shape.ts";
import { tensor } from "../../../core/tensor.ts";
import { maxPool } from "../../../kernels/pool/max_pool.ts";
import { maxPoolRef } from "../../../kernels/pool/max_pool_ref.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("maxPool() matches the reference, with edges that fill no square", async () => {
  for (const [shape, size] of [[[2, 4, 6, 3], 2], [[1, 7, 5, 2], 3], [[3, 2, 2, 1], 1]] as const) {
    const data = randomNumbers(sizeOf(shape), 1);
    await checkOp([{ data, shape }], (x) => maxPool(x, size), (x) => maxPoolRef(x, shape, size), {
      forward: 0,
    });
  }
});

Deno.test("maxPool() gives the gradient of equal numbers to the first", async () => {
  const x = tensor(device, new Float32Array(4).fill(5), [1, 2, 2, 1]);
  x.requiresGrad = true;
  backward(sum(maxPool(x, 2)));
  assertEquals(Array.from(await x.grad!.read()), [1, 0, 0, 0]);
});

Deno.test("maxPool() refuses squares larger than the picture", () => {
  assertThrows(() => maxPool(randomTensor([1, 4, 2, 1], 1), 3), RangeError, "from 1 to 2");
});
