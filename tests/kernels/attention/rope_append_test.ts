import { tensor } from "../../../core/tensor.ts";
import { ropeAppend } from "../../../kernels/attention/rope_append.ts";
import { ropeAppendRef } from "../../../kernels/attention/rope_append_ref.ts";
import { assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

Deno.test("ropeAppend() turns queries, and fills the cache behind what is there", async () => {
  const theta = 10_000;
  for (const size of [16, 6]) {
    const table = new Float32Array(50 * size);
    for (let i = 0; i < 50 * size / 2; i++) {
      const [position, j] = [Math.floor(i / (size / 2)), i % (size / 2)];
      const angle = position * theta ** (-2 * j / size);
      table[position * size + j] = Math.cos(angle);
      table[position * size + size / 2 + j] = Math.sin(angle);
    }
    // The last tokens do not fit where 5 of 6 slots are filled.
    for (const past of [0, 2, 5]) {
      const dims = { batch: 2, length: 3, slots: 6, heads: 4, kvHeads: 2, size, theta };
      const q = randomNumbers(2 * 3 * 4 * size, 1);
      const [k, v] = [2, 3].map((seed) => randomNumbers(2 * 3 * 2 * size, seed));
      const [keys, values] = [4, 5].map((seed) => randomNumbers(2 * 6 * 2 * size, seed));
      const positions = new Int32Array([past, past + 1, past + 2, 0, 1, 49]);
      const expected = ropeAppendRef({ q, k, v }, { keys, values, past }, positions, dims);
      const cache = {
        keys: tensor(device, keys, [2, 6, 2, size]),
        values: tensor(device, values, [2, 6, 2, size]),
        past: tensor(device, new Int32Array([past])),
      };
      const turned = ropeAppend(
        tensor(device, q, [2, 3, 4, size]),
        tensor(device, k, [2, 3, 2, size]),
        tensor(device, v, [2, 3, 2, size]),
        tensor(device, positions, [2, 3]),
        tensor(device, table, [50, size]),
        cache,
      );
      assertRelativeError(await turned.read(), expected.q, 1e-6, "q");
      assertRelativeError(await cache.keys.read(), expected.keys, 1e-6, "keys");
      assertRelativeError(await cache.values.read(), expected.values, 1e-6, "values");
    }
  }
});

Deno.test("ropeAppend() refuses a cache of another shape", () => {
  const x = randomTensor([1, 1, 2, 8], 1);
  const other = randomTensor([1, 4, 3, 8], 1);
  const past = tensor(device, new Int32Array(1));
  const positions = tensor(device, new Int32Array(1), [1, 1]);
  const table = randomTensor([4, 8], 1);
  assertThrows(
    () => ropeAppend(x, x, x, positions, table, { keys: other, values: other, past }),
    RangeError,
    "the cache's keys has shape [1,4,3,8], wanted [1,any,2,8]",
  );
});
