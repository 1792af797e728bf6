/**
 * The loss, and if wanted the likeliest token, at every place that has a label: what perplexity and accuracy are made of.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { capture } from "../../core/capture.ts";
import { empty, viewOf } from "../../core/tensor.ts";
import { crossEntropyRows } from "../../kernels/loss/cross_entropy.ts";
import { sample } from "../../kernels/sample/sample.ts";
import { IGNORED, type Sequence } from "../data/dataset.ts";
import { pack, type PackedBatch, type PackOptions } from "../data/packing.ts";
import type { LanguageModel } from "../models/language_model.ts";

/** Told after each stretch of work: how many tokens were predicted so far, and how many will be in all. */
export type EvaluationProgress = (done: number, total: number) => void;

/** How sequences are scored. */
export interface ScoreOptions extends PackOptions {
  /** Whether the likeliest tokens are wanted too. */
  readonly predict: boolean;
  /** Told how far the work is. */
  readonly onProgress?: EvaluationProgress;
}

/** What a model makes of sequences; the labels of the first come first, then those of the second, and so on. */
export interface Scores {
  /** f32 [targets]: `−log p(label)`. */
  readonly losses: Float32Array;
  /** i32 [targets]: the likeliest token; null if it was not asked for. */
  readonly predicted: Int32Array | null;
  /** Where each sequence's labels begin in them, and at the end how many there are. */
  readonly starts: readonly number[];
}

/** Bytes that the logits of one dispatch may take. */
const LOGIT_BYTES = { software: 64 << 20, gpu: 256 << 20 };

/** Tokens that go through the model together: enough to fill the machine. */
const TOKENS = { software: 2048, gpu: 8192 };

/** So many parts are on their way at most before their results are read. */
const MOST_AT_ONCE = 256;

/** Reads are this far apart, in milliseconds: far more than one takes, and near enough for a progress bar. */
const ROUND = { shortest: 500, longest: 2000 };

/** How many places may have logits at a time, and how many tokens may go through the model. */
export function budgetOf({ config, device }: LanguageModel): { places: number; tokens: number } {
  const kind = device.adapter.type === "software" ? "software" : "gpu";
  const fitting = (width: number) => Math.max(1, Math.floor(LOGIT_BYTES[kind] / (4 * width)));
  return {
    places: fitting(config.vocabSize),
    tokens: Math.min(TOKENS[kind], fitting(config.intermediateSize)),
  };
}

/** Throws unless a model has a row for every id. */
export function checkIds(model: LanguageModel, ids: ArrayLike<number>, where: string): void {
  const { vocabSize } = model.config;
  for (let i = 0; i < ids.length; i++) {
    if (Number.isInteger(ids[i]) && ids[i] >= 0 && ids[i] < vocabSize) continue;
    throw new RangeError(
      `Cannot evaluate ${where}: token ${i + 1} has the id ${
        ids[i]
      }, but the model's vocabulary has ${vocabSize}; encode the text with the model's own tokenizer`,
    );
  }
}

/** Label places of a batch, padded to as many as all parts have. */
interface Part {
  readonly batch: PackedBatch;
  readonly places: Int32Array<ArrayBuffer>;
  readonly labels: Int32Array<ArrayBuffer>;
  /** Where the result of each place belongs; shorter than the others where they are padded. */
  readonly to: readonly number[];
}

/** Where each sequence's labels begin among all labels. */
function startsOf(sequences: readonly Sequence[]): number[] {
  const starts = [0];
  for (const { labels } of sequences) {
    let count = 0;
    for (const label of labels) if (label !== IGNORED) count++;
    starts.push(starts.at(-1)! + count);
  }
  return starts;
}

/**
 * Cuts batches where they have more labels than logits may be in memory; such a batch goes through the model once for each part.
 */
function partsOf(
  batches: readonly PackedBatch[],
  starts: readonly number[],
  mostPlaces: number,
): { parts: Part[]; size: number } {
  const most = Math.max(1, ...batches.map(({ targets }) => targets));
  const size = Math.ceil(most / Math.ceil(most / mostPlaces));
  const next = starts.slice();
  const parts: Part[] = [];
  for (const batch of batches) {
    const all: number[] = [];
    batch.labels.forEach((label, place) => label !== IGNORED && all.push(place));
    for (let from = 0; from < all.length; from += size) {
      const own = all.slice(from, from + size);
      const places = new Int32Array(size);
      const labels = new Int32Array(size).fill(IGNORED);
      places.set(own);
      own.forEach((place, i) => labels[i] = batch.labels[place]);
      parts.push({ batch, places, labels, to: own.map((place) => next[batch.sequences[place]]++) });
    }
  }
  return { parts, size };
}

/** Runs `body` without gradients, and with the dropout of adapters off. */
function evaluating<T>({ adapters }: LanguageModel, body: () => T): T {
  const training = [...adapters].filter((adapter) => adapter.training);
  for (const adapter of training) adapter.training = false;
  try {
    return noGrad(body);
  } finally {
    for (const adapter of training) adapter.training = true;
  }
}

/**
 * Packs sequences into batches of one shape, and scores every label. Nothing is read back batch by batch: results collect on the
 * device and are read about twice a second.
 *
 * @throws {RangeError} if a sequence does not fit, or an id is beyond the vocabulary
 */
export async function score(
  model: LanguageModel,
  sequences: readonly Sequence[],
  options: ScoreOptions,
): Promise<Scores> {
  const { device } = model;
  const { predict, onProgress } = options;
  const starts = startsOf(sequences);
  const total = starts.at(-1)!;
  const { parts, size } = partsOf(pack(sequences, options), starts, budgetOf(model).places);
  const scores = {
    losses: new Float32Array(total),
    predicted: predict ? new Int32Array(total) : null,
    starts,
  };
  using step = capture(device, (ids, positions, places, labels) =>
    evaluating(model, () => {
      const logits = model.forward(ids, { positions, places });
      const { losses } = crossEntropyRows(logits, labels);
      return predict ? [losses, sample(logits)] : [losses];
    }));
  const slots = Math.min(parts.length, MOST_AT_ONCE);
  using losses = device.keep(empty(device, [slots * size]));
  using predicted = device.keep(empty(device, [predict ? slots * size : 1], "i32"));
  let done = 0;
  let atOnce = 1;
  for (let from = 0; from < parts.length;) {
    const round = parts.slice(from, from + atOnce);
    const begin = performance.now();
    for (const [slot, { batch, places, labels }] of round.entries()) {
      const shape = [batch.rows, batch.length];
      const results = step(
        { data: batch.ids, shape },
        { data: batch.positions, shape },
        { data: places, shape: [size] },
        { data: labels, shape: [size] },
      );
      const offset = 4 * slot * size;
      device.copy(results[0], viewOf(losses, [size], "f32", offset));
      if (predict) device.copy(results[1], viewOf(predicted, [size], "i32", offset));
    }
    const [lossNumbers, tokens] = await Promise.all([
      viewOf(losses, [round.length * size]).read(),
      predict ? viewOf(predicted, [round.length * size]).read() : null,
    ]);
    for (const [slot, { to }] of round.entries()) {
      to.forEach((target, i) => {
        scores.losses[target] = lossNumbers[slot * size + i];
        if (tokens) scores.predicted![target] = tokens[slot * size + i];
      });
      done += to.length;
    }
    onProgress?.(done, total);
    from += round.length;
    const time = performance.now() - begin;
    if (time < ROUND.shortest) atOnce = Math.min(2 * atOnce, MOST_AT_ONCE);
    else if (time > ROUND.longest) atOnce = Math.max(1, atOnce >> 1);
  }
  return scores;
}
