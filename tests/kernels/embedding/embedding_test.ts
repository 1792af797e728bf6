import { tensor } from "../../../core/tensor.ts";
import { embedding } from "../../../kernels/embedding/embedding.ts";
import { embeddingRef } from "../../../kernels/embedding/embedding_ref.ts";
import { cast } from "../../../kernels/pointwise/cast.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomIntegers, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("embedding() matches the reference; rows used often sum their gradients", async () => {
  await onBoth(async () => {
    for (
      const [rows, columns, count] of [[5, 4, 3], [10, 12, 150], [70, 80, 64], [300, 12, 61], [
        9,
        5,
        20,
      ]]
    ) {
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
});

Deno.test("embedding() reads a table of halves as cast() does", async () => {
  await onBoth(async () => {
    const half = cast(randomTensor([30, 20], 1), "f16");
    const ids = tensor(device, randomIntegers(70, 30, 2));
    const found = await embedding(half, ids).read();
    assertEquals(found, await embedding(cast(half, "f32"), ids).read());
  });
  const odd = cast(randomTensor([3, 6], 1), "f16");
  const none = tensor(device, new Int32Array([0]));
  assertThrows(() => embedding(odd, none), RangeError, "wanted a multiple of 4");
});
