import { matmul } from "../../../kernels/linear/matmul.ts";
import { rowSquares, updatedNorm } from "../../../kernels/norm/updated_norm.ts";
import { updatedNormRef } from "../../../kernels/norm/updated_norm_ref.ts";
import { tensor, zeros } from "../../../core/tensor.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

for (const [rows, columns, rank] of [[1, 1, 1], [5, 7, 2], [64, 96, 4], [200, 33, 17]]) {
  Deno.test(`updatedNorm(): ${rows} rows of ${columns}, rank ${rank}`, async () => {
    const numbers = [
      randomNumbers(rows * columns, 1),
      randomNumbers(rank * columns, 2),
      randomNumbers(rows * rank, 3),
    ];
    const [w, a, b] = [
      tensor(device, numbers[0], [rows, columns]),
      tensor(device, numbers[1], [rank, columns]),
      tensor(device, numbers[2], [rows, rank]),
    ];
    a.requiresGrad = b.requiresGrad = true;
    const scaling = 0.7;
    const squares = rowSquares(w);
    const product = matmul(a, w, { transposeB: true });
    const norm = updatedNorm({ squares, product, a, b, scaling });
    const [dW, dA, dB] = numbers;
    const wanted = updatedNormRef(dW, dA, dB, rows, columns, scaling);
    assertRelativeError(await norm.read(), wanted, 2e-6);
    assertEquals(norm.node, null);
  });
}

Deno.test("updatedNorm() of no update is the weight's own, and above 0 for a row of zeros", async () => {
  const w = tensor(device, Float32Array.of(3, 4, 0, 0), [2, 2]);
  const a = randomTensor([1, 2], 1);
  const b = zeros(device, [2, 1]);
  const product = matmul(a, w, { transposeB: true });
  const squares = rowSquares(w);
  const [first, second] = await updatedNorm({ squares, product, a, b, scaling: 2 }).read();
  assertEquals(first, 5);
  assertEquals(second > 0 && second < 1e-14, true);
});

Deno.test("updatedNorm() names shapes that do not fit", () => {
  const given = {
    squares: zeros(device, [3]),
    product: zeros(device, [2, 4]),
    a: zeros(device, [2, 5]),
    b: zeros(device, [4, 2]),
    scaling: 1,
  };
  assertThrows(() => updatedNorm(given), RangeError, "squares");
});
