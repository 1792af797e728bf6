/**
 * Attention on GPUs by tiles: which tile for which shape, and the dispatches.
 *
 * @module
 */
import { type Binding, floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import deltaCode from "./attention_delta.wgsl" with { type: "text" };
import groupSumCode from "./group_sum.wgsl" with { type: "text" };
import { type Attended, forwardFlops, type Lengths, noPast, type Operands } from "./operands.ts";
import { type AttentionTile, pieceWidth } from "./tile.ts";
import {
  keptLength,
  keptSource,
  keysBytes,
  keysSource,
  queriesBytes,
  queriesSource,
} from "./tile_backward.ts";
import { forwardBytes, forwardSource } from "./tile_forward.ts";

/** The tiles of the three kernels. */
export interface Tiles {
  readonly forward: AttentionTile;
  readonly queries: AttentionTile;
  readonly keys: AttentionTile;
  /** The keys' kernel takes each query head alone, and the heads of a group are summed afterwards. */
  readonly split: boolean;
  /** The keys' kernel keeps the gradients of scores for that of the queries, for so many rows of the batch at a time; 0: it does not. */
  readonly keptRows: number;
}

// Measured on an H100: more rows and columns for a thread, or more threads, whichever the kernel's registers allow.
const LARGE: AttentionTile = { rows: 64, columns: 64, across: 8, down: 16 };
const LARGE_BACKWARD: AttentionTile = { rows: 64, columns: 64, across: 16, down: 16 };
const TALL: AttentionTile = { rows: 64, columns: 32, across: 8, down: 16 };
const MEDIUM: AttentionTile = { rows: 32, columns: 64, across: 16, down: 8 };
const SMALL: AttentionTile = { rows: 32, columns: 32, across: 8, down: 8 };

/** The tiles that multiply kept gradients, by the rows of the tile that kept them. */
const KEPT: Record<number, AttentionTile> = {
  64: { rows: 64, columns: 64, across: 8, down: 16 },
  32: { rows: 32, columns: 32, across: 8, down: 8 },
};

/** With fewer workgroups than this a GPU is not full. */
const FULL = 200;

/** Bytes of gradients of scores that are kept at most. */
const MOST_KEPT = 64 << 20;

/** The largest head that the tiles take. */
export const LARGEST_HEAD = 128;

/** The tiles for operands of these lengths, or `null` if none fits in workgroup memory of `limit` bytes. */
export function chooseTiles(lengths: Lengths, limit: number, subgroups: boolean): Tiles | null {
  const { batch, queries, heads, kvHeads, size } = lengths;
  if (size > LARGEST_HEAD) return null;
  const groups = (tile: AttentionTile, heads: number) =>
    batch * heads * Math.ceil(queries / tile.rows);
  const choose = (large: AttentionTile, bytes: (tile: AttentionTile) => number) => {
    const fitting = [large, TALL, MEDIUM, SMALL].filter((tile) =>
      tile.across <= pieceWidth(size) && bytes(tile) <= limit
    );
    return fitting.find((tile) => groups(tile, heads) >= FULL) ??
      fitting.find((tile) => tile.rows === 32);
  };
  const backward = size > 32 ? LARGE_BACKWARD : LARGE;
  const forward = choose(LARGE, (tile) => forwardBytes(tile, size, subgroups));
  const byQueries = choose(backward, (tile) => queriesBytes(tile, size));
  const byKeys = choose(backward, (tile) => keysBytes(tile, size));
  if (!forward || !byQueries || !byKeys) return null;
  const split = heads > kvHeads && groups(byKeys, kvHeads) < FULL;
  // Keeping pays where the kernels would not run side by side anyway.
  const row = 4 * heads * keptLength(byKeys, queries);
  const large = byKeys.rows === byKeys.columns && groups(byKeys, heads) >= FULL;
  const keptRows = large ? Math.min(batch, Math.floor(MOST_KEPT / row)) : 0;
  return { forward, queries: byQueries, keys: byKeys, split, keptRows };
}

const kernels = new Map<string, Kernel>();

function kernelOf(label: string, tile: AttentionTile, more: string, source: () => string): Kernel {
  const key = [label, ...Object.values(tile), more].join();
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel(label, source()));
  return found;
}

const deltaKernel = kernel("attention_delta", deltaCode);
const groupSumKernel = kernel("attention_group_sum", groupSumCode);

function paramsOf({ q, k }: Operands, ...more: number[]) {
  const [batch, queries, heads, size] = q.shape;
  const [, keys, kvHeads] = k.shape;
  return uniform(batch, queries, keys, heads, kvHeads, floatBits(1 / Math.sqrt(size)), ...more);
}

/** The forward pass. Log sums are [batch, heads, queries], base 2. */
export function attendByTiles(
  operands: Operands,
  { forward: tile }: Tiles,
  subgroups: boolean,
): Attended {
  const { q, k, v, positions, past } = operands;
  const { device } = q;
  const [batch, queries, heads, size] = q.shape;
  const out = empty(device, q.shape);
  const logSums = empty(device, [batch, heads, queries]);
  device.dispatch(
    kernelOf(
      "attention",
      tile,
      `${size},${subgroups}`,
      () => forwardSource(tile, size, subgroups),
    ),
    [q, k, v, positions, past ?? noPast(device), out, logSums, paramsOf(operands)],
    [heads, batch, Math.ceil(queries / tile.rows)],
    undefined,
    forwardFlops(operands),
  );
  return { out, logSums };
}

function sumGroups(x: Tensor, kvHeads: number): Tensor {
  const [batch, length, heads, size] = x.shape;
  const out = empty(x.device, [batch, length, kvHeads, size]);
  const count = out.size / 4;
  x.device.dispatch(
    groupSumKernel,
    [x, out, uniform(count, size / 4, heads / kvHeads)],
    gridOf(Math.ceil(count / 64)),
  );
  return out;
}

/** What the backward pass's kernels read and write. */
interface BackwardPass {
  readonly operands: Operands;
  readonly tiles: Tiles;
  /** Query heads for each head of dK and dV. */
  readonly group: number;
  /** The inputs of the kernels that compute scores again, for rows of the batch from this one on. */
  inputs(firstRow: number): Binding[];
  readonly dQ: Tensor;
  readonly dK: Tensor;
  readonly dV: Tensor;
}

/** Queues the keys' and the queries' kernel, which run side by side; each computes the gradients of scores. */
function backwardApart({ operands, tiles, group, inputs, dQ, dK, dV }: BackwardPass): void {
  const { q } = operands;
  const [batch, length, heads, size] = q.shape;
  const { keys, queries } = tiles;
  const flops = forwardFlops(operands);
  q.device.dispatch(
    kernelOf("attention_backward_kv", keys, `${size}`, () => keysSource(keys, size, false)),
    [...inputs(0), dK, dV],
    [heads / group, batch, Math.ceil(length / keys.rows)],
    undefined,
    // Three of the backward pass's five products; both kernels compute two of them, which count once.
    1.5 * flops,
  );
  q.device.dispatch(
    kernelOf("attention_backward_q", queries, `${size}`, () => queriesSource(queries, size)),
    [...inputs(0), dQ],
    [heads, batch, Math.ceil(length / queries.rows)],
    undefined,
    flops,
  );
}

/** Queues the keys' kernel, which keeps the gradients of scores, and what makes those of the queries from them. */
function backwardKeeping({ operands, tiles, group, inputs, dQ, dK, dV }: BackwardPass): void {
  const { q, k, positions } = operands;
  const [batch, length, heads, size] = q.shape;
  const { keys, keptRows } = tiles;
  const flops = forwardFlops(operands);
  const blocks = Math.ceil(length / keys.rows);
  const tile = KEPT[keys.rows];
  const kept = empty(q.device, [keptRows, heads, keptLength(keys, length)]);
  const keysKernel = kernelOf(
    "attention_backward_kv",
    keys,
    `${size},kept`,
    () => keysSource(keys, size, true),
  );
  const queriesKernel = kernelOf(
    "attention_backward_q",
    tile,
    `${size},kept`,
    () => keptSource(tile, size),
  );
  for (let row = 0; row < batch; row += keptRows) {
    const rows = Math.min(keptRows, batch - row);
    q.device.dispatch(
      keysKernel,
      [...inputs(row), dK, dV, kept],
      [heads / group, rows, blocks],
      undefined,
      2 * flops * rows / batch,
    );
    q.device.dispatch(
      queriesKernel,
      [k, positions, kept, dQ, paramsOf(operands, group, row)],
      [heads, rows, blocks],
      undefined,
      0.5 * flops * rows / batch,
    );
  }
}

/** The backward pass: the gradients of q, k and v, from that of the result. */
export function backwardByTiles(
  operands: Operands,
  { out, logSums }: Attended,
  g: Tensor,
  tiles: Tiles,
): Tensor[] {
  const { q, k, v, positions } = operands;
  const { device } = q;
  const [batch, length, heads, size] = q.shape;
  const kvHeads = k.shape[2];
  const deltas = empty(device, logSums.shape);
  device.dispatch(
    deltaKernel,
    [out, g, deltas, uniform(batch, length, heads, size / 4)],
    gridOf(Math.ceil(deltas.size / 32)),
  );
  const group = tiles.split ? 1 : heads / kvHeads;
  const own = [batch, length, heads / group, size];
  const [dQ, dK, dV] = [q.shape, own, own].map((shape) => empty(device, shape));
  const inputs = (firstRow: number) => [
    ...[q, k, v, g, positions, logSums, deltas],
    paramsOf(operands, group, firstRow),
  ];
  const pass = { operands, tiles, group, inputs, dQ, dK, dV };
  if (tiles.keptRows > 0) backwardKeeping(pass);
  else backwardApart(pass);
  if (!tiles.split) return [dQ, dK, dV];
  return [dQ, sumGroups(dK, kvHeads), sumGroups(dV, kvHeads)];
}
