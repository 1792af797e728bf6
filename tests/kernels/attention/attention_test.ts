import { tensor } from "../../../core/tensor.ts";
import { attention } from "../../../kernels/attention/attention.ts";
import { attentionRef } from "../../../kernels/attention/attention_ref.ts";
import { assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

function inputs(batch: number, length: number, heads: number, kvHeads: number, size: number) {
  const make = (count: number, seed: number) => ({
    data: randomNumbers(batch * length * count * size, seed),
    shape: [batch, length, count, size],
  });
  return [make(heads, 1), make(kvHeads, 2), make(kvHeads, 3)];
}

const range = (n: number) => Array.from({ length: n }, (_, i) => i);

Deno.test("attention() matches the reference, forward and backward", async () => {
  for (
    const [batch, length, heads, kvHeads, size] of [[1, 1, 1, 1, 4], [2, 7, 4, 2, 8], [
      1,
      37,
      3,
      1,
      16,
    ]]
  ) {
    const positions = Int32Array.from(range(batch).flatMap(() => range(length)));
    const p = tensor(device, positions, [batch, length]);
    await checkOp(
      inputs(batch, length, heads, kvHeads, size),
      (q, k, v) => attention(q, k, v, p),
      (q, k, v) =>
        attentionRef(q, k, v, positions, {
          batch,
          queries: length,
          keys: length,
          heads,
          kvHeads,
          size,
        }),
      { every: 5 },
    );
  }
});

Deno.test("attention() keeps packed sequences and left padding apart", async () => {
  // Row 0 packs sequences of 4, 1 and 5; row 1 begins with two tokens of padding.
  const positions = new Int32Array([0, 1, 2, 3, 0, 0, 1, 2, 3, 4, 0, 0, 0, 1, 2, 3, 4, 5, 6, 7]);
  const p = tensor(device, positions, [2, 10]);
  const dims = { batch: 2, queries: 10, keys: 10, heads: 2, kvHeads: 1, size: 8 };
  await checkOp(
    inputs(2, 10, 2, 1, 8),
    (q, k, v) => attention(q, k, v, p),
    (q, k, v) => attentionRef(q, k, v, positions, dims),
  );
});

Deno.test("attention() over a cache sees the slots filled before", async () => {
  const dims = { batch: 2, queries: 2, keys: 9, heads: 2, kvHeads: 2, size: 8, past: 5 };
  const q = randomTensor([2, 2, 2, 8], 1);
  const k = randomTensor([2, 9, 2, 8], 2);
  const v = randomTensor([2, 9, 2, 8], 3);
  const positions = new Int32Array([5, 6, 3, 4]);
  const past = tensor(device, new Int32Array([5]));
  const out = attention(q, k, v, tensor(device, positions, [2, 2]), { past });
  const [qs, ks, vs] = await Promise.all([q.read(), k.read(), v.read()]);
  assertRelativeError(await out.read(), attentionRef(qs, ks, vs, positions, dims), 1e-6);
});

Deno.test("attention() refuses heads that do not fit", () => {
  const p = tensor(device, new Int32Array(3), [1, 3]);
  const x = (heads: number, size: number) => randomTensor([1, 3, heads, size], 1);
  assertThrows(
    () => attention(x(3, 8), x(2, 8), x(2, 8), p),
    RangeError,
    "3 query heads over 2 key heads",
  );
  assertThrows(() => attention(x(2, 6), x(2, 6), x(2, 6), p), RangeError, "heads of 6");
});
