import { columnChoice, pickColumns } from "../../../kernels/pointwise/pick_columns.ts";
import { pickColumnsRef } from "../../../kernels/pointwise/pick_columns_ref.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("pickColumns() matches the reference, with gradients", async () => {
  await onBoth(async () => {
    for (
      const [rows, whole, columns] of [[1, 5, [4]], [7, 12, [0, 3, 11]], [3, 70, [
        1,
        2,
        69,
      ]]] as const
    ) {
      const x = { data: randomNumbers(rows * whole, 1), shape: [rows, whole] };
      const choice = columnChoice(device, columns, whole);
      await checkOp(
        [x],
        (t) => pickColumns(t, choice),
        (v) => pickColumnsRef(v, rows, whole, columns),
      );
    }
    const every = Array.from({ length: 300 }, (_, i) => i);
    const x = randomTensor([2, 3, 300], 2);
    const same = pickColumns(x, columnChoice(device, every, 300));
    assertEquals([same.shape, await same.read()], [x.shape, await x.read()]);
  });
});

Deno.test("pickColumns() refuses columns that there are not", () => {
  for (const columns of [[], [3], [1, 1], [2, 0], [-1], [0.5]]) {
    assertThrows(
      () => columnChoice(device, columns, 3),
      RangeError,
      "wanted ascending whole numbers",
    );
  }
  const choice = columnChoice(device, [0], 3);
  assertThrows(
    () => pickColumns(randomTensor([2, 4], 1), choice),
    RangeError,
    "one of 3 columns, found 4",
  );
});
