import { tensor } from "../../../core/tensor.ts";
import { crossEntropy } from "../../../kernels/loss/cross_entropy.ts";
import { crossEntropyRef } from "../../../kernels/loss/cross_entropy_ref.ts";
import { onBoth } from "../../as_gpu.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomIntegers, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("crossEntropy() matches the reference, and ignores −100", async () => {
  await onBoth(async () => {
    const cases = [[1, 5, 1], [12, 30, 5], [7, 132, 4], [70, 1030, 2], [3, 9217, 2], [
      2,
      20_000,
      3,
    ]];
    for (const [rows, classes, deviation] of cases) {
      const targets = randomIntegers(rows, classes, 2);
      if (rows > 3) targets.fill(-100, 2, 5);
      const logits = { data: randomNumbers(rows * classes, 1, deviation), shape: [rows, classes] };
      await checkOp(
        [logits],
        (x) => crossEntropy(x, tensor(device, targets)),
        (x) => [crossEntropyRef(x, targets, classes)],
        { every: rows * classes > 1000 ? Math.floor(rows * classes / 150) : 1 },
      );
    }
  });
});

Deno.test("crossEntropy() of parts, each divided by the whole count, sums to the whole", async () => {
  const logits = randomNumbers(6 * 8, 1);
  const targets = new Int32Array([1, -100, 3, 7, 0, 2]);
  const whole = await crossEntropy(tensor(device, logits, [6, 8]), tensor(device, targets)).item();
  const count = tensor(device, new Float32Array([5]));
  let parts = 0;
  for (const [from, to] of [[0, 2], [2, 6]]) {
    const part = tensor(device, logits.slice(from * 8, to * 8), [to - from, 8]);
    parts += await crossEntropy(part, tensor(device, targets.slice(from, to)), { count }).item();
  }
  assertRelativeError([parts], [whole], 1e-6);
});

Deno.test("crossEntropy() of nothing but ignored targets is 0, and checks lengths", async () => {
  const logits = randomTensor([2, 4], 1);
  const none = tensor(device, new Int32Array([-100, -100]));
  assertEquals(await crossEntropy(logits, none).item(), 0);
  assertThrows(
    () => crossEntropy(logits, tensor(device, new Int32Array([1]))),
    RangeError,
    "wanted one target for each of 2 rows",
  );
});
