import { rmsNorm } from "../../../kernels/norm/rms_norm.ts";
import { rmsNormRef } from "../../../kernels/norm/rms_norm_ref.ts";
import { assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("rmsNorm() matches the reference, with gradients for x and gain", async () => {
  await onBoth(async () => {
    for (
      const [rows, columns] of [[1, 4], [10, 24], [130, 33], [2, 1100], [7, 576], [3, 1028], [
        2,
        9000,
      ]]
    ) {
      const x = { data: randomNumbers(rows * columns, 1, 2), shape: [rows, columns] };
      const gain = { data: randomNumbers(columns, 2), shape: [columns] };
      await checkOp(
        [x, gain],
        (t, g) => rmsNorm(t, g, 1e-6),
        (t, g) => rmsNormRef(t, g, rows, columns, 1e-6),
        { every: Math.ceil(rows * columns / 500) },
      );
    }
  });
});

Deno.test("rmsNorm() refuses a gain of another length", () => {
  assertThrows(
    () => rmsNorm(randomTensor([2, 8], 1), randomTensor([4], 2)),
    RangeError,
    "Cannot normalize: gain has shape [4], wanted [8]",
  );
});
