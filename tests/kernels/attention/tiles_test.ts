import { tensor } from "../../../core/tensor.ts";
import { type AttentionVariant, runAttention } from "../../../kernels/attention/attention.ts";
import { attentionRef } from "../../../kernels/attention/attention_ref.ts";
import type { AttentionTile } from "../../../kernels/attention/tile.ts";
import { chooseTiles } from "../../../kernels/attention/tiles.ts";
import { assertEquals, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const SQUARE: AttentionTile = { rows: 32, columns: 32, across: 8, down: 8 };
const WIDE: AttentionTile = { rows: 16, columns: 32, across: 16, down: 4 };
const TALL: AttentionTile = { rows: 64, columns: 32, across: 8, down: 16 };

function variantOf(tile: AttentionTile, split = false, keptRows = 0): AttentionVariant {
  const tiles = { forward: tile, queries: tile, keys: tile, split, keptRows };
  return { by: "tiles", tiles, subgroups: false };
}

/** Positions of sequences of these lengths, one after another. */
const packed = (...lengths: number[]) =>
  lengths.flatMap((length) => Array.from({ length }, (_, i) => i));

interface Case {
  readonly rows: readonly number[][];
  readonly heads: number;
  readonly kvHeads: number;
  readonly size: number;
  readonly variant: AttentionVariant;
  readonly every?: number;
}

async function check({ rows, heads, kvHeads, size, variant, every }: Case): Promise<void> {
  const batch = rows.length;
  const length = rows[0].length;
  const positions = Int32Array.from(rows.flat());
  const p = tensor(device, positions, [batch, length]);
  const dims = { batch, queries: length, keys: length, heads, kvHeads, size };
  const make = (count: number, seed: number) => ({
    data: randomNumbers(batch * length * count * size, seed),
    shape: [batch, length, count, size],
  });
  await checkOp(
    [make(heads, 1), make(kvHeads, 2), make(kvHeads, 3)],
    (q, k, v) => runAttention({ q, k, v, positions: p }, variant),
    (q, k, v) => attentionRef(q, k, v, positions, dims),
    { every },
  );
}

Deno.test("attention's tiles match the reference at ragged lengths and grouped queries", async () => {
  for (const split of [false, true]) {
    const variant = variantOf(SQUARE, split);
    await check({ rows: [packed(71)], heads: 3, kvHeads: 1, size: 8, variant, every: 37 });
    await check({ rows: [packed(1)], heads: 2, kvHeads: 2, size: 4, variant });
  }
});

Deno.test("attention's tiles keep packed sequences and left padding apart", async () => {
  const rows = [packed(40, 1, 29), [...Array(33).fill(0), ...packed(37)]];
  for (const split of [false, true]) {
    const variant = variantOf(SQUARE, split);
    await check({ rows, heads: 2, kvHeads: 1, size: 8, variant, every: 29 });
  }
});

Deno.test("attention's backward pass may keep the gradients of scores, for some rows at a time", async () => {
  const rows = [packed(40, 1, 29), packed(70), [...Array(33).fill(0), ...packed(37)]];
  for (const keptRows of [2, 3]) {
    const variant = variantOf(SQUARE, keptRows === 2, keptRows);
    await check({ rows, heads: 2, kvHeads: 1, size: 8, variant, every: 61 });
  }
});

Deno.test("attention's tiles take heads in pieces, the last of them not full", async () => {
  const variant = variantOf(SQUARE, false);
  await check({ rows: [packed(35)], heads: 1, kvHeads: 1, size: 72, variant, every: 97 });
});

Deno.test("attention's tiles match the reference whatever their sizes", async () => {
  for (const tile of [TALL, WIDE]) {
    const size = tile === WIDE ? 64 : 16;
    const variant = variantOf(tile, false);
    await check({ rows: [packed(50, 20)], heads: 2, kvHeads: 1, size, variant, every: 151 });
  }
});

Deno.test("attention's tiles see the slots of a cache that were filled before", async () => {
  const [queries, keys, past] = [37, 90, 41];
  const dims = { batch: 2, queries, keys, heads: 2, kvHeads: 1, size: 16, past };
  const q = randomTensor([2, queries, 2, 16], 1);
  const k = randomTensor([2, keys, 1, 16], 2);
  const v = randomTensor([2, keys, 1, 16], 3);
  // The second sequence has 5 slots of padding on its left.
  const positions = Int32Array.from(
    [past, past - 5].flatMap((first) => Array.from({ length: queries }, (_, i) => first + i)),
  );
  const out = runAttention({
    q,
    k,
    v,
    positions: tensor(device, positions, [2, queries]),
    past: tensor(device, new Int32Array([past])),
  }, variantOf(SQUARE, false));
  const [qs, ks, vs] = await Promise.all([q.read(), k.read(), v.read()]);
  assertRelativeError(await out.read(), attentionRef(qs, ks, vs, positions, dims), 1e-6);
});

Deno.test({
  name: "attention's tiles for this GPU match the reference at every size of grid",
  ignore: device.adapter.type === "software",
  fn: async () => {
    const limit = device.gpu.limits.maxComputeWorkgroupStorageSize;
    for (const subgroups of device.adapter.subgroups ? [true, false] : [false]) {
      for (const [heads, kvHeads, size] of [[9, 3, 64], [2, 2, 128], [4, 1, 32]]) {
        const rows = [packed(70, 60), packed(130)];
        // Larger grids only have other tiles: those run here on a small grid.
        for (const copies of [1, 200]) {
          const lengths = { batch: copies, queries: 130, keys: 130, heads, kvHeads, size };
          const tiles = chooseTiles(lengths, limit, subgroups)!;
          const variant = { by: "tiles", tiles, subgroups } as const;
          await check({ rows, heads, kvHeads, size, variant, every: 9973 });
        }
      }
    }
  },
});

Deno.test("attention's tiles fit the workgroup memory they are chosen for", () => {
  const lengths = { batch: 1, queries: 64, keys: 64, heads: 2, kvHeads: 2, size: 64 };
  const wanted = { rows: 32, columns: 32, across: 8, down: 8 };
  assertEquals(chooseTiles(lengths, 32768, false)?.forward, wanted);
  assertEquals(chooseTiles(lengths, 4096, false), null);
});
