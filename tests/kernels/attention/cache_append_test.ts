import { tensor } from "../../../core/tensor.ts";
import { cacheAppend } from "../../../kernels/attention/cache_append.ts";
import { cacheAppendRef } from "../../../kernels/attention/cache_append_ref.ts";
import { assertEquals, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

Deno.test("cacheAppend() writes behind what is filled, and drops what does not fit", async () => {
  const dims = { batch: 2, count: 3, slots: 6, width: 8 };
  const before = randomNumbers(2 * 6 * 8, 1);
  const x = randomNumbers(2 * 3 * 8, 2);
  for (const past of [0, 2, 4]) {
    const cache = tensor(device, before, [2, 6, 2, 4]);
    const count = tensor(device, new Int32Array([past]));
    cacheAppend(cache, tensor(device, x, [2, 3, 2, 4]), count);
    const expected = Float32Array.from(cacheAppendRef(before, x, past, dims));
    assertEquals(await cache.read(), expected);
  }
  assertThrows(
    () =>
      cacheAppend(
        randomTensor([2, 6, 2, 4], 1),
        randomTensor([2, 1, 3, 4], 1),
        randomTensor([1], 1),
      ),
    RangeError,
    "Cannot append to the cache: x has shape [2,1,3,4], wanted [2,any,2,4]",
  );
});
