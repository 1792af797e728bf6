import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { distillation } from "../../../kernels/loss/distillation.ts";
import { distillationRef } from "../../../kernels/loss/distillation_ref.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

Deno.test("distillation() and its gradient match the reference", async () => {
  for (const [rows, classes] of [[3, 8], [9, 37], [5, 1100], [20, 2048]]) {
    const [s, t] = [randomNumbers(rows * classes, 1, 3), randomNumbers(rows * classes, 2, 3)];
    const targets = Int32Array.from({ length: rows }, (_, i) => i % 3 === 1 ? -100 : i % classes);
    const student = tensor(device, s, [rows, classes]);
    student.requiresGrad = true;
    const loss = distillation(student, tensor(device, t, [rows, classes]), tensor(device, targets));
    backward(loss);
    const what = `${rows}×${classes}`;
    const expected = distillationRef(s, t, targets, classes);
    assertRelativeError([await loss.item()], [expected], 2e-6, what);
    const slopes = await student.grad!.read();
    const at = [0, 1, classes - 1, 2 * classes, 2 * classes + 5];
    const found = at.map((i) => slopes[i]);
    const values = Float64Array.from(s);
    const slope = (i: number) => {
      const before = values[i];
      const [above, below] = [1e-4, -1e-4].map((step) => {
        values[i] = before + step;
        return distillationRef(values, t, targets, classes);
      });
      values[i] = before;
      return (above - below) / 2e-4;
    };
    assertRelativeError(found, at.map(slope), 1e-5, what);
    assert(slopes.subarray(classes, 2 * classes).every((x) => x === 0), what);
  }
});

Deno.test("distillation() is 0 from itself, divides by what it is told, and wants equal shapes", async () => {
  const x = tensor(device, randomNumbers(40, 3), [4, 10]);
  const y = tensor(device, randomNumbers(40, 4), [4, 10]);
  const targets = tensor(device, Int32Array.of(1, 2, 3, -100));
  const own = tensor(device, randomNumbers(40, 3), [4, 10]);
  assert(Math.abs(await distillation(x, own, targets).item()) < 1e-6);
  const mean = await distillation(x, y, targets).item();
  const count = tensor(device, Float32Array.of(6));
  assertRelativeError([await distillation(x, y, targets, { count }).item()], [mean / 2], 1e-6);
  const none = tensor(device, new Int32Array(4).fill(-100));
  assertEquals(await distillation(x, y, none).item(), 0);
  const wrong = tensor(device, new Float32Array(20), [4, 5]);
  assertThrows(() => distillation(x, wrong, targets), RangeError, "teacher");
});
