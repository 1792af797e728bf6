import { max } from "../../../kernels/reduce/max.ts";
import { maxRef } from "../../../kernels/reduce/max_ref.ts";
import { softmax } from "../../../kernels/reduce/softmax.ts";
import { softmaxRef } from "../../../kernels/reduce/softmax_ref.ts";
import { mean, sum } from "../../../kernels/reduce/sum.ts";
import { sumRef } from "../../../kernels/reduce/sum_ref.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("sum() matches the reference over each axis, and over all", async () => {
  await onBoth(async () => {
    const x = { data: randomNumbers(3 * 5 * 7, 1), shape: [3, 5, 7] };
    await checkOp([x], (t) => sum(t, { axis: 0 }), (v) => sumRef(v, 1, 3, 35));
    await checkOp([x], (t) => sum(t, { axis: 1 }), (v) => sumRef(v, 3, 5, 7));
    await checkOp([x], (t) => sum(t, { axis: -1 }), (v) => sumRef(v, 15, 7, 1));
    await checkOp([x], (t) => sum(t), (v) => sumRef(v, 1, 105, 1));
    await checkOp([x], (t) => mean(t, { axis: 1 }), (v) => sumRef(v, 3, 5, 7).map((y) => y / 5));
    assertEquals(sum(randomTensor([3, 5], 1), { axis: 0, keepAxis: true }).shape, [1, 5]);
    assertThrows(
      () => sum(randomTensor([3], 1), { axis: 1 }),
      RangeError,
      "Cannot sum over axis 1",
    );
  });
});

Deno.test("sum() stays accurate over many elements", async () => {
  await onBoth(async () => {
    for (const [rows, columns] of [[1, 200_000], [3000, 20], [2, 40_000]]) {
      const x = randomTensor([rows, columns], 1);
      const data = await x.read();
      const expected = sumRef(data, rows, columns, 1);
      assertRelativeError(await sum(x, { axis: 1 }).read(), expected, 1e-6);
      const columnSums = sumRef(data, 1, rows, columns);
      assertRelativeError(await sum(x, { axis: 0 }).read(), columnSums, 1e-6);
    }
  });
});

Deno.test("max() matches the reference, and gives the gradient to the first of equals", async () => {
  const x = { data: randomNumbers(3 * 5 * 7, 1), shape: [3, 5, 7] };
  await checkOp([x], (t) => max(t, { axis: 1 }), (v) => maxRef(v, 3, 5, 7));
  await checkOp([x], (t) => max(t), (v) => maxRef(v, 15, 7, 1));
});

Deno.test("softmax() matches the reference, also for large scores and long rows", async () => {
  await onBoth(async () => {
    for (const [rows, columns, deviation] of [[5, 7, 1], [3, 130, 40], [2, 2048, 3], [9, 1, 1]]) {
      const x = { data: randomNumbers(rows * columns, 1, deviation), shape: [rows, columns] };
      await checkOp([x], softmax, (v) => softmaxRef(v, rows, columns), {
        every: 7,
        gradient: 1e-4,
      });
    }
  });
});
