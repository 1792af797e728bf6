import { tensor } from "../../../core/tensor.ts";
import { shiftLabels } from "../../../kernels/loss/shift_labels.ts";
import { shiftLabelsRef } from "../../../kernels/loss/shift_labels_ref.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

Deno.test("shiftLabels() moves every row by one", async () => {
  for (const shape of [[1, 1], [3, 7], [2, 5, 33]]) {
    const size = shape.reduce((a, b) => a * b);
    const labels = randomIntegers(size, 100, size);
    const found = await shiftLabels(tensor(device, labels, shape)).read();
    assertEquals([...found], shiftLabelsRef(labels, shape.at(-1)!));
  }
});

Deno.test("shiftLabels() wants whole numbers", () => {
  assertThrows(() => shiftLabels(tensor(device, new Float32Array(4), [1, 4])), TypeError, "i32");
});
