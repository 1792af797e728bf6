import { tensor } from "../../../core/tensor.ts";
import { attention, runAttention } from "../../../kernels/attention/attention.ts";
import { attentionRef } from "../../../kernels/attention/attention_ref.ts";
import { cacheAppend } from "../../../kernels/attention/cache_append.ts";
import { cachedAttention } from "../../../kernels/attention/cached_attention.ts";
import {
  attendByDecoding,
  type DecodePlan,
  type KernelLimits,
  planDecode,
} from "../../../kernels/attention/decode.ts";
import { rope } from "../../../kernels/attention/rope.ts";
import { ropeAppend } from "../../../kernels/attention/rope_append.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device, randomTensor } from "../../device.ts";

/** Small workgroups, so that slots are split; and large ones. */
const SMALL = { memory: 32768, invocations: 256, buffers: 10 };
const LARGE = { memory: 49152, invocations: 1024, buffers: 10 };

interface Case {
  readonly batch?: number;
  readonly queries?: number;
  readonly keys: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly size: number;
  readonly past: number;
  /** Slots before each sequence. */
  readonly padding?: readonly number[];
  readonly limits?: KernelLimits;
  readonly plan?: (chosen: DecodePlan) => DecodePlan;
}

async function check(options: Case): Promise<void> {
  const { batch = 1, queries = 1, keys, heads, kvHeads, size, past, padding = [] } = options;
  const lengths = { batch, queries, keys, heads, kvHeads, size };
  const chosen = planDecode(lengths, options.limits ?? SMALL)!;
  const plan = options.plan?.(chosen) ?? chosen;
  const q = randomTensor([batch, queries, heads, size], 1);
  const k = randomTensor([batch, keys, kvHeads, size], 2);
  const v = randomTensor([batch, keys, kvHeads, size], 3);
  const positions = Int32Array.from(
    { length: batch * queries },
    (_, i) => past + i % queries - (padding[Math.floor(i / queries)] ?? 0),
  );
  const p = tensor(device, positions, [batch, queries]);
  const filled = tensor(device, new Int32Array([past]));
  const operands = { q, k, v, positions: p, past: filled };
  const out = runAttention(operands, { by: "decoding", plan });
  const [qs, ks, vs] = await Promise.all([q.read(), k.read(), v.read()]);
  assertRelativeError(
    await out.read(),
    attentionRef(qs, ks, vs, positions, { ...lengths, past }),
    2e-6,
  );
}

Deno.test("decoding matches the reference however many slots are filled", async () => {
  for (const past of [0, 1, 31, 32, 99, 299]) {
    await check({ keys: 300, heads: 3, kvHeads: 1, size: 64, past });
  }
});

Deno.test("decoding matches the reference with many slots for each workgroup, and with one workgroup", async () => {
  for (const splits of [1, 2, 3]) {
    const plan = ({ shape }: DecodePlan) => ({ shape: { ...shape, split: splits > 1 }, splits });
    for (const past of [5, 250]) {
      await check({ keys: 300, heads: 4, kvHeads: 2, size: 32, past, plan });
    }
  }
});

Deno.test("decoding matches the reference in one large workgroup for each head", async () => {
  for (const past of [3, 250]) {
    await check({ keys: 300, heads: 2, kvHeads: 1, size: 64, past, limits: LARGE });
    await check({ keys: 300, heads: 2, kvHeads: 1, size: 40, past, limits: LARGE });
  }
});

Deno.test("decoding matches the reference at odd head sizes and groups", async () => {
  for (
    const [heads, kvHeads, size] of [[8, 1, 128], [2, 2, 40], [7, 1, 4], [1, 1, 256], [11, 1, 8]]
  ) {
    await check({ keys: 70, heads, kvHeads, size, past: 60 });
  }
});

Deno.test("decoding keeps sequences with padding and several queries apart", async () => {
  await check({
    batch: 3,
    queries: 2,
    keys: 100,
    heads: 4,
    kvHeads: 2,
    size: 16,
    past: 70,
    padding: [0, 40, 69],
  });
});

Deno.test("planDecode() fills a GPU, and leaves many queries to the tiles", () => {
  const lengths = { batch: 1, queries: 1, keys: 4096, heads: 32, kvHeads: 8, size: 128 };
  const plan = planDecode(lengths, LARGE)!;
  assert(plan.splits * 8 >= 264);
  assertEquals(plan.shape.heads, 4);
  assertEquals(planDecode({ ...lengths, keys: 256 }, LARGE)?.splits, 1);
  assertEquals(planDecode(lengths, { ...LARGE, buffers: 8 }, "rope"), null);
  assertEquals(planDecode({ ...lengths, queries: 5 }, LARGE), null);
});

Deno.test("decoding turns and appends new tokens on its way", async () => {
  for (
    const [heads, kvHeads, size, past, limits] of [
      [6, 2, 64, 70, SMALL],
      [6, 2, 64, 70, LARGE],
      [8, 1, 32, 0, SMALL],
      [2, 2, 8, 99, SMALL],
    ] as const
  ) {
    for (const before of ["rope", "append"] as const) {
      const [batch, keys] = [2, 100];
      const lengths = { batch, queries: 1, keys, heads, kvHeads, size };
      const [q, k, v] = [heads, kvHeads, kvHeads].map((count, i) =>
        randomTensor([batch, 1, count, size], i + 1)
      );
      const cache = () => ({
        keys: randomTensor([batch, keys, kvHeads, size], 4),
        values: randomTensor([batch, keys, kvHeads, size], 5),
        past: tensor(device, new Int32Array([past])),
      });
      const table = randomTensor([keys, size], 6);
      const positions = tensor(device, new Int32Array([past, past >> 1]), [batch, 1]);
      const apart = cache();
      const turned = before === "rope" ? ropeAppend(q, k, v, positions, table, apart) : q;
      if (before === "append") {
        cacheAppend(apart.keys, k, apart.past);
        cacheAppend(apart.values, v, apart.past);
      }
      const expected = attention(turned, apart.keys, apart.values, positions, apart);
      const one = cache();
      const operands = { q, k: one.keys, v: one.values, positions, past: one.past };
      const fresh = { k, v, table: before === "rope" ? table : undefined };
      const out = attendByDecoding(operands, planDecode(lengths, limits, before)!, fresh);
      assertRelativeError(await out.read(), await expected.read(), 2e-6, "result");
      assertRelativeError(await one.keys.read(), await apart.keys.read(), 1e-7, "keys");
      assertEquals(await one.values.read(), await apart.values.read());
    }
  }
});

Deno.test("cachedAttention() equals its parts, for one token and for several", async () => {
  for (const length of [1, 3]) {
    const [q, k, v] = [4, 2, 2].map((count, i) => randomTensor([1, length, count, 16], i + 1));
    const table = randomTensor([20, 16], 6);
    const positions = tensor(device, Int32Array.from({ length }, (_, i) => 5 + i), [1, length]);
    const cache = () => ({
      keys: randomTensor([1, 20, 2, 16], 4),
      values: randomTensor([1, 20, 2, 16], 5),
      past: tensor(device, new Int32Array([5])),
    });
    for (const turned of [true, false]) {
      const [one, apart] = [cache(), cache()];
      const out = cachedAttention(q, k, v, positions, one, turned ? table : undefined);
      cacheAppend(apart.keys, turned ? rope(k, positions, table) : k, apart.past);
      cacheAppend(apart.values, v, apart.past);
      const ready = turned ? rope(q, positions, table) : q;
      const expected = attention(ready, apart.keys, apart.values, positions, apart);
      assertRelativeError(await out.read(), await expected.read(), 2e-6, "result");
      assertRelativeError(await one.keys.read(), await apart.keys.read(), 1e-6, "keys");
    }
  }
});
