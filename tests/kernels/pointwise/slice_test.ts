import { backward } from "../../../core/autograd.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { slice } from "../../../kernels/pointwise/slice.ts";
import { sliceRef } from "../../../kernels/pointwise/slice_ref.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { assertAllClose, assertEquals, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("slice() matches the reference along any axis, with gradients", async () => {
  await onBoth(async () => {
    const x = { data: randomNumbers(2 * 5 * 12, 1), shape: [2, 5, 12] };
    for (const [start, length] of [[0, 12], [4, 8], [3, 2], [11, 1]]) {
      await checkOp(
        [x],
        (t) => slice(t, { start, length }),
        (v) => sliceRef(v, 10, 12, start, length),
      );
    }
    await checkOp(
      [x],
      (t) => slice(t, { axis: 1, start: 2, length: 3 }),
      (v) => sliceRef(v, 2, 60, 24, 36),
    );
    await checkOp(
      [x],
      (t) => slice(t, { axis: 0, start: 1, length: 1 }),
      (v) => sliceRef(v, 1, 120, 60, 60),
    );
  });
});

Deno.test("slice() sums the gradients of several parts of one tensor", async () => {
  await onBoth(async () => {
    const x = randomTensor([3, 8], 1);
    x.requiresGrad = true;
    const [a, b] = [slice(x, { start: 0, length: 4 }), slice(x, { start: 2, length: 4 })];
    backward(sum(mul(a, b)));
    const v = await x.read();
    const wanted = Float64Array.from(v, (_, i) => {
      const c = i % 8;
      return (c < 4 ? v[i + 2] : 0) + (c >= 2 && c < 6 ? v[i - 2] : 0);
    });
    assertAllClose(await x.grad!.read(), wanted);
  });
});

Deno.test("slice() refuses what is not within an axis", () => {
  const x = randomTensor([2, 8], 1);
  assertEquals(slice(x, { axis: -2, start: 1, length: 1 }).shape, [1, 8]);
  for (const part of [{ start: 4, length: 5 }, { start: -1, length: 2 }, { start: 0, length: 0 }]) {
    assertThrows(() => slice(x, part), RangeError, "Cannot slice [2,8]: found axis -1, start");
  }
  assertThrows(() => slice(x, { axis: 2, start: 0, length: 1 }), RangeError, "found axis 2");
});
