/** Batches whose labels are their own ids. */
import type { PackedBatch } from "../train/data/packing.ts";

/** Rows of ids that are their own labels, shifted as transformers shifts them. */
export function batchOf(ids: Int32Array<ArrayBuffer>, rows: number): PackedBatch {
  const length = ids.length / rows;
  return {
    ids,
    positions: ids.map((_, i) => i % length),
    labels: ids.map((_, i) => (i + 1) % length === 0 ? -100 : ids[i + 1]),
    sequences: ids.map((_, i) => Math.floor(i / length)),
    rows,
    length,
    targets: ids.length - rows,
    tokens: ids.length,
  };
}
