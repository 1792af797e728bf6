/**
 * Packing: many short sequences side by side in rows of one length, so that a batch always has the same shape.
 *
 * @module
 */
import { IGNORED, type Sequence } from "./dataset.ts";

/**
 * What one step is given, all i32 [rows · length] row by row. A sequence never crosses a row; where `positions` is 0 a new one
 * begins, and attention must not look back past it.
 */
export interface PackedBatch {
  /** Tokens; 0 in empty places. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** Place of each token in its own sequence; in empty places it counts from 0 again. */
  readonly positions: Int32Array<ArrayBuffer>;
  /** The token that should follow each, or −100. */
  readonly labels: Int32Array<ArrayBuffer>;
  /** Which of the sequences each place belongs to, counted from 0 as they were given; −1 in empty places. */
  readonly sequences: Int32Array<ArrayBuffer>;
  /** How many rows. */
  readonly rows: number;
  /** Places in a row. */
  readonly length: number;
  /** How many labels count: the weight of the batch where losses of several are averaged. */
  readonly targets: number;
  /** How many places hold a token. */
  readonly tokens: number;
}

/** The shape of a batch. */
export interface PackOptions {
  /** Places in a row. */
  readonly length: number;
  /** Rows in a batch. */
  readonly rows: number;
}

function checkCount(what: string, value: number): void {
  if (Number.isSafeInteger(value) && value > 0) return;
  throw new RangeError(`Cannot pack into ${value} ${what}: wanted a whole number above 0`);
}

/** A batch that is being filled; `open` says where each row begins and how much of it is used. */
interface OpenBatch extends Omit<PackedBatch, "targets" | "tokens"> {
  readonly open: readonly { readonly from: number; used: number }[];
}

function emptyBatch(rows: number, length: number): OpenBatch {
  return {
    ids: new Int32Array(rows * length),
    positions: new Int32Array(rows * length),
    labels: new Int32Array(rows * length).fill(IGNORED),
    sequences: new Int32Array(rows * length).fill(-1),
    rows,
    length,
    open: Array.from({ length: rows }, (_, row) => ({ from: row * length, used: 0 })),
  };
}

function countUp(positions: Int32Array, from: number, to: number): void {
  for (let i = from; i < to; i++) positions[i] = i - from;
}

function finish({ open, ...batch }: OpenBatch): PackedBatch {
  for (const { from, used } of open) countUp(batch.positions, from + used, from + batch.length);
  const targets = batch.labels.reduce((count, label) => count + Number(label !== IGNORED), 0);
  const tokens = open.reduce((count, { used }) => count + used, 0);
  return { ...batch, targets, tokens };
}

/**
 * Packs sequences into batches in the order given: each goes into the first row of the batch that has room for it, and where
 * none has, the next batch begins. The same sequences give the same batches; to train in another order, shuffle them first.
 * The last batch may have many empty places.
 *
 * @throws {RangeError} if there is no sequence, one is longer than a row, or `length` or `rows` is not above 0.
 *
 * @example
 * ```ts
 * import { pack } from "@nibble/nibble";
 *
 * const sequence = (...ids: number[]) => ({ ids: Int32Array.from(ids), labels: Int32Array.from(ids) });
 * const [batch] = pack([sequence(5, 6), sequence(7)], { length: 4, rows: 1 });
 * console.log(batch.ids, batch.positions); // Int32Array(4) [ 5, 6, 7, 0 ] Int32Array(4) [ 0, 1, 0, 0 ]
 * ```
 */
export function pack(sequences: readonly Sequence[], { length, rows }: PackOptions): PackedBatch[] {
  checkCount("places", length);
  checkCount("rows", rows);
  if (sequences.length === 0) {
    throw new RangeError("Cannot pack an empty data set: wanted at least one sequence");
  }
  const batches: PackedBatch[] = [];
  let current = emptyBatch(rows, length);
  for (const [i, sequence] of sequences.entries()) {
    const { ids, labels } = sequence;
    if (ids.length > length || ids.length !== labels.length) {
      throw new RangeError(
        `Cannot pack sequence ${
          i + 1
        }: it has ${ids.length} tokens and ${labels.length} labels, wanted as many of both, at most ${length}; shorten it or raise the length`,
      );
    }
    let row = current.open.find(({ used }) => used + ids.length <= length);
    if (!row) {
      batches.push(finish(current));
      current = emptyBatch(rows, length);
      row = current.open[0];
    }
    const at = row.from + row.used;
    current.ids.set(ids, at);
    current.labels.set(labels, at);
    current.sequences.fill(i, at, at + ids.length);
    countUp(current.positions, at, at + ids.length);
    row.used += ids.length;
  }
  batches.push(finish(current));
  return batches;
}

/**
 * Cuts one stream of tokens into sequences of `length`, for pretraining: every token is a label once, the first token of the
 * stream excepted, and positions count over a whole row. The last sequence may be shorter. Give them to `pack`, shuffled or not.
 *
 * @throws {RangeError} if the stream has fewer than 2 tokens, or `length` is not above 0.
 *
 * @example
 * ```ts
 * import { chunk } from "@nibble/nibble";
 *
 * const [first, second] = chunk(Int32Array.of(1, 2, 3, 4), 2);
 * console.log(first.ids, first.labels, second.ids); // [ 1, 2 ] [ 2, 3 ] [ 3 ], as Int32Arrays
 * ```
 */
export function chunk(ids: Int32Array, length: number): Sequence[] {
  checkCount("places", length);
  if (ids.length < 2) {
    throw new RangeError(
      `Cannot cut a stream of ${ids.length} tokens into rows: wanted at least 2, one to see and one to predict`,
    );
  }
  const sequences: Sequence[] = [];
  for (let from = 0; from + 1 < ids.length; from += length) {
    const to = Math.min(from + length, ids.length - 1);
    sequences.push({ ids: ids.slice(from, to), labels: ids.slice(from + 1, to + 1) });
  }
  return sequences;
}
