import { tensor } from "../../../core/tensor.ts";
import { embedding } from "../../../kernels/embedding/embedding.ts";
import { embeddingRef } from "../../../kernels/embedding/embedding_ref.ts";
import { device, randomIntegers, randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("embedding() matches the reference; rows used often sum their gradients", async () => {
  for (const [rows, columns, count] of [[5, 4, 3], [10, 12, 150], [70, 80, 64], [300, 12, 61]]) {
    const ids = randomIntegers(count, rows, 3);
    const table = { data: randomNumbers(rows * columns, 1), shape: [rows, columns] };
    await checkOp(
      [table],
      (t) => embedding(t, tensor(device, ids, [1, count])),
      (t) => embeddingRef(t, ids, columns),
      { every: 3 },
    );
  }
});
