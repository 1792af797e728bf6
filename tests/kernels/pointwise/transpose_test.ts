import { transpose } from "../../../kernels/pointwise/transpose.ts";
import { transposeRef } from "../../../kernels/pointwise/transpose_ref.ts";
import { assertThrows } from "../../assert.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("transpose() matches the reference, with its gradient", async () => {
  for (const [rows, columns] of [[1, 1], [3, 50], [48, 16], [33, 17]]) {
    await checkOp(
      [{ data: randomNumbers(rows * columns, 1), shape: [rows, columns] }],
      transpose,
      (v) => transposeRef(v, rows, columns),
      { every: 5 },
    );
  }
});

Deno.test("transpose() wants a matrix", () => {
  assertThrows(() => transpose(randomTensor([2, 2, 2], 1)), RangeError, "wanted 2 axes");
});
