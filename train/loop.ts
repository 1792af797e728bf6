/**
 * The trainer.
 *
 * @module
 */
import type { CaptureOptions } from "../core/capture.ts";
import { type Dataset, epochBatches, toSequences } from "./data/batches.ts";
import type { Sequence } from "./data/dataset.ts";
import type { PackedBatch } from "./data/packing.ts";
import type { LanguageModel } from "./models/language_model.ts";
import { type Checkpointing, recomputedBlocks } from "./models/run_blocks.ts";
import { storedAs } from "./models/stored_as.ts";
import type { AdamWOptions } from "./optim/adamw.ts";
import { scheduleFactor, type ScheduleKind } from "./optim/schedule.ts";

import { TrainStep } from "./step.ts";

/** How a model is trained. */
export interface TrainOptions extends AdamWOptions, CaptureOptions {
  /** Optimizer steps; without it, `epochs` says how long. */
  readonly steps?: number;
  /** Passes over the data, 1 by default. */
  readonly epochs?: number;
  /** The largest learning rate: 2e-4 by default, QLoRA's for small models (Dettmers et al., arXiv 2305.14314, table 9). */
  readonly learningRate?: number;
  /** How it falls: "cosine" by default. */
  readonly schedule?: ScheduleKind;
  /** Steps in which it rises from 0: none by default. */
  readonly warmup?: number;
  /** Rows of a batch, 8 by default. Sequences are packed: a row holds as many as fit; a small set may fill fewer rows. */
  readonly batchSize?: number;
  /** Tokens of a row. By default as many as the longest sequence has; at least 256, if the data are so many and the context allows. */
  readonly length?: number;
  /** Batches of a step, 1 by default: their gradients are summed, every label token weighing the same. */
  readonly accumulation?: number;
  /** Of the order of the data, and of dropout. 0 by default; the same seed gives the same weights, byte for byte. */
  readonly seed?: number;
  /** Steps between two reads of the losses; by default as many as take about a second. */
  readonly readEvery?: number;
  /**
   * Gradient checkpointing: of each block only the input is kept, and the backward pass computes the rest again. A third more work
   * for a fraction of the memory; `{ keep: n }` leaves the last n blocks out. The weights are the same, byte for byte, but with
   * activations in "f16", where a block is computed again from its rounded input.
   */
  readonly checkpointing?: Checkpointing;
  /**
   * A model on the same device with the same tokens, whose predictions are learnt, where there are labels, instead of those: the
   * loss is then the divergence from them. For quantization-aware training, the model in 32 bits (Liu et al., arXiv 2305.17888).
   */
  readonly teacher?: LanguageModel;
}

/** What a run takes of the device's memory, in bytes. */
export interface TrainMemory {
  /** Held before the run: the weights, and whatever else there is. */
  readonly held: number;
  /** Gradients and the optimizer's moments. */
  readonly state: number;
  /** All that a step computes, its inputs included. */
  readonly step: number;
  /** The sum: the most that is ever held. */
  readonly peak: number;
}

/** What `train` tells about each step. */
export interface TrainProgress {
  /** The step, counted from 1. */
  readonly step: number;
  /** Steps of the whole run. */
  readonly steps: number;
  /** The pass over the data, counted from 1. */
  readonly epoch: number;
  /** The mean cross-entropy of the step's label tokens before the update, in nats. */
  readonly loss: number;
  /** The norm of the gradient before clipping. */
  readonly gradNorm: number;
  /** The learning rate of this step. */
  readonly learningRate: number;
  /** Tokens that the model has read since the beginning of the run, padding left out. */
  readonly tokens: number;
  /** Tokens a second, from the second read of the losses on: the first steps compile. */
  readonly tokensPerSecond: number;
}

/** About a second of steps between reads: a read takes 10 ms in which the GPU has nothing to do. */
const READ_MILLISECONDS = 1000;

/** So many steps are queued at most before they are waited for. */
const MOST_QUEUED = 512;

/** So many tokens a row has at least, if the context allows: short rows waste places when sequences are packed. */
const LEAST_LENGTH = 256;

function checkWhole(name: string, value: number, least: number): void {
  if (Number.isSafeInteger(value) && value >= least) return;
  throw new RangeError(
    `Cannot train with ${name} ${value}: wanted a whole number, at least ${least}`,
  );
}

/** Throws unless a model can learn from another. */
function checkTeacher(teacher: LanguageModel, model: LanguageModel): void {
  const fault = teacher === model
    ? "it is the model itself: load another"
    : teacher.device !== model.device
    ? "it is on another device: load it on the model's"
    : teacher.config.vocabSize !== model.config.vocabSize
    ? `it has ${teacher.config.vocabSize} tokens, the model ${model.config.vocabSize}: wanted one with the same tokenizer`
    : null;
  if (fault) throw new TypeError(`Cannot learn from the teacher: ${fault}`);
}

/** The plan of a run: which batches make which step. */
class Batches {
  readonly length: number;
  readonly rows: number;
  readonly steps: number;
  /** The most labels in a batch. */
  readonly mostTargets: number;
  /** How many sequences the data set has. */
  readonly sequences: number;
  /** How many tokens they have. */
  readonly dataTokens: number;
  readonly #sequences: readonly Sequence[];
  readonly #options: Required<Pick<TrainOptions, "accumulation" | "seed">>;
  /** How many steps each epoch has; the last one may be cut. */
  readonly #epochs: number[] = [];
  #open: { epoch: number; batches: PackedBatch[] } | null = null;

  constructor(model: LanguageModel, dataset: Dataset, options: TrainOptions) {
    const { batchSize = 8, accumulation = 1, seed = 0, epochs = 1 } = options;
    checkWhole("a batch size of", batchSize, 1);
    checkWhole("an accumulation of", accumulation, 1);
    checkWhole("the seed", seed, 0);
    checkWhole("epochs:", epochs, 1);
    const { contextLength } = model.config;
    const { length: given } = options;
    if (given !== undefined && (given > contextLength || given < 1)) {
      throw new RangeError(
        `Cannot train on rows of ${given} tokens: the model's context has ${contextLength} positions`,
      );
    }
    const sequences = toSequences(dataset, model.tokenizer, given ?? contextLength);
    this.#sequences = sequences;
    const longest = sequences.reduce((most, { ids }) => Math.max(most, ids.length), 1);
    const tokens = sequences.reduce((sum, { ids }) => sum + ids.length, 0);
    const least = Math.min(LEAST_LENGTH, tokens);
    this.length = given ?? Math.min(contextLength, Math.max(longest, least));
    this.sequences = sequences.length;
    this.dataTokens = tokens;
    // A small set does not fill the rows of a batch: those that stay empty in every batch are left out.
    const full = Math.ceil(tokens / this.length);
    this.rows = Math.min(batchSize, full === 1 ? 1 : full + 1);
    this.#options = { accumulation, seed };
    const { steps } = options;
    if (steps !== undefined) checkWhole("steps:", steps, 1);
    let [total, mostTargets] = [0, 0];
    // Each epoch is packed anew, so how many batches it has, and of how many labels, is known only after packing.
    for (let epoch = 0; steps === undefined ? epoch < epochs : total < steps; epoch++) {
      const batches = this.#pack(epoch);
      for (const { targets } of batches) mostTargets = Math.max(mostTargets, targets);
      const own = Math.ceil(batches.length / accumulation);
      this.#epochs.push(own);
      total += own;
    }
    this.steps = steps ?? total;
    this.mostTargets = mostTargets;
  }

  #pack(epoch: number): PackedBatch[] {
    const { rows, length } = this;
    return epochBatches(this.#sequences, { seed: this.#options.seed, epoch, rows, length });
  }

  /** The batches of a step, and its epoch, counted from 0. */
  at(step: number): { epoch: number; batches: PackedBatch[] } {
    let epoch = 0;
    let inside = step;
    while (inside >= this.#epochs[epoch]) inside -= this.#epochs[epoch++];
    if (this.#open?.epoch !== epoch) this.#open = { epoch, batches: this.#pack(epoch) };
    const { accumulation } = this.#options;
    const from = inside * accumulation;
    return { epoch, batches: this.#open.batches.slice(from, from + accumulation) };
  }
}

/** Counts tokens and the time that they take, from the second read on. */
class Clock {
  #start: { time: number; tokens: number } | null = null;
  rate = 0;

  mark(tokens: number): void {
    const time = performance.now();
    if (this.#start) this.rate = 1000 * (tokens - this.#start.tokens) / (time - this.#start.time);
    else this.#start = { time, tokens };
  }
}

/** A run that can be stepped, stopped, saved and resumed. `train` is the short way. */
export class Trainer implements Disposable {
  /** The model that is trained. */
  readonly model: LanguageModel;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Steps made so far. */
  step = 0;
  /** Tokens that the model has read in these steps, padding left out. */
  tokens = 0;
  /** @ignore The parameters, the optimizer, and the recorded step. */
  readonly inner: TrainStep;
  readonly #batches: Batches;
  readonly #options: TrainOptions;
  readonly #clock = new Clock();
  /** Bytes that were held before the trainer was made. */
  readonly #held: number;
  /** Bytes of gradients and moments. */
  readonly #state: number;
  /** Steps between reads. */
  #block = 1;

  /** Checks the options and the data. Throws a RangeError or TypeError if something makes no sense. */
  constructor(model: LanguageModel, dataset: Dataset, options: TrainOptions = {}) {
    const { learningRate = 2e-4, warmup = 0, readEvery } = options;
    if (!(learningRate > 0 && Number.isFinite(learningRate))) {
      throw new RangeError(
        `Cannot train at learning rate ${learningRate}: wanted a number above 0`,
      );
    }
    checkWhole("a warm-up of", warmup, 0);
    if (readEvery !== undefined) checkWhole("readEvery:", readEvery, 1);
    if (options.teacher) checkTeacher(options.teacher, model);
    this.model = model;
    this.#options = options;
    this.#batches = new Batches(model, dataset, options);
    this.steps = this.#batches.steps;
    recomputedBlocks(model.config.layers, options.checkpointing);
    const { length, rows, mostTargets } = this.#batches;
    this.#held = model.device.memory.live;
    this.inner = new TrainStep(model, { ...options, mostTargets, rows, length });
    this.#state = model.device.memory.live - this.#held;
  }

  /** Tokens of a row. */
  get length(): number {
    return this.#batches.length;
  }

  /** Rows of a batch: `batchSize`, or fewer where the data do not fill so many. */
  get rows(): number {
    return this.#batches.rows;
  }

  /**
   * What the run takes of the device's memory, known before the first step has run: the step is recorded for it. Of a run without
   * replay, which takes memory as it goes, only what it holds between steps.
   */
  memory(): TrainMemory {
    const { device, adapters } = this.model;
    // Adapters drop inputs only in training: it is the training step that is recorded.
    for (const adapter of adapters) adapter.training = true;
    try {
      this.inner.prepare();
    } finally {
      for (const adapter of adapters) adapter.training = false;
    }
    const peak = device.memory.live;
    return { held: this.#held, state: this.#state, step: peak - this.#held - this.#state, peak };
  }

  /** What must be equal between a run and the checkpoint that it goes on from, as a text. */
  get identity(): string {
    const { batchSize = 8, accumulation = 1, seed = 0, learningRate = 2e-4 } = this.#options;
    const { schedule = "cosine", warmup = 0, betas = [0.9, 0.999], epsilon = 1e-8 } = this.#options;
    const { weightDecay = 0, maxGradNorm = 1, activations = "f32" } = this.#options;
    const { length, sequences, dataTokens } = this.#batches;
    const adapters = [...this.model.adapters].flatMap(({ identity }) => identity ?? []);
    return JSON.stringify({
      ...{ steps: this.steps, length, batchSize, accumulation, seed, sequences, dataTokens },
      ...{ learningRate, schedule, warmup, betas, epsilon, weightDecay, maxGradNorm },
      ...activations !== "f32" && { activations },
      ...adapters.length > 0 && { base: storedAs(this.model), adapters },
      ...this.#options.teacher && { distilled: true },
    });
  }

  /** The learning rate of the step after `done` steps. */
  #rate(done: number): number {
    const { learningRate = 2e-4, schedule: kind = "cosine", warmup = 0 } = this.#options;
    return learningRate * scheduleFactor(done, { kind, steps: this.steps, warmup });
  }

  /**
   * Makes the next steps, at most up to step `until`, and tells about them. Between two yields of one read the weights do not
   * change; after the last of them they are those of `step`.
   *
   * @throws {Error} if the loss is no longer a number
   */
  async *run(until: number = this.steps): AsyncGenerator<TrainProgress> {
    const { adapters } = this.model;
    for (const adapter of adapters) adapter.training = true;
    try {
      yield* this.#run(until);
    } finally {
      for (const adapter of adapters) adapter.training = false;
    }
  }

  async *#run(until: number): AsyncGenerator<TrainProgress> {
    const { seed = 0, readEvery } = this.#options;
    const last = Math.min(until, this.steps);
    while (this.step < last) {
      const count = Math.min(readEvery ?? this.#block, last - this.step);
      const told: Omit<TrainProgress, "loss" | "gradNorm" | "tokensPerSecond">[] = [];
      const start = performance.now();
      for (let i = 0; i < count; i++) {
        const { epoch, batches } = this.#batches.at(this.step);
        const learningRate = this.#rate(this.step);
        this.step++;
        for (const adapter of this.model.adapters) adapter.beginStep(seed, this.step);
        this.inner.run(batches, this.step, learningRate);
        for (const { tokens } of batches) this.tokens += tokens;
        told.push({
          step: this.step,
          steps: this.steps,
          epoch: epoch + 1,
          learningRate,
          tokens: this.tokens,
        });
      }
      const found = await this.inner.read();
      const spent = performance.now() - start;
      if (spent < READ_MILLISECONDS / 2) this.#block = Math.min(2 * count, MOST_QUEUED);
      this.#clock.mark(this.tokens);
      for (const [i, { loss, gradNorm }] of found.entries()) {
        if (!Number.isFinite(loss)) throw divergedAt(told[i].step, loss, told[i].learningRate);
        yield { ...told[i], loss, gradNorm, tokensPerSecond: this.#clock.rate };
      }
    }
  }

  /** Frees the recorded step, gradients and moments. The weights stay. */
  [Symbol.dispose](): void {
    this.inner.dispose();
  }
}

function divergedAt(step: number, loss: number, rate: number): Error {
  return new Error(
    `Cannot go on: the loss is ${loss} at step ${step}, at learning rate ${rate}. Lower the learning rate, or warm it up`,
  );
}

/**
 * Trains a model's trainable parameters: those of its adapters, or with `trainable: "all"` its own. Sequences are packed into
 * rows, logits are computed only where there are labels, and each step is one replayed recording.
 *
 * @param model a model with an adapter, or loaded with `trainable: "all"`
 * @param dataset examples (the loss is on their answers), texts, or sequences
 * @param options how long, how fast
 * @returns for each step its number and loss. Losses are read in blocks; when the last of a block is given, the weights are
 * those after that step
 * @throws {TypeError} if nothing is trainable
 * @throws {RangeError} if the data set is empty or an option makes no sense
 * @throws {Error} if the loss is no longer a number
 *
 * @example
 * ```ts
 * import { openDevice, randomModel, train } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 64,
 *   hidden_size: 32,
 *   intermediate_size: 64,
 *   num_hidden_layers: 1,
 *   num_attention_heads: 2,
 *   max_position_embeddings: 16,
 * }, { trainable: "all" });
 * const ids = Int32Array.from({ length: 16 }, (_, i) => i % 4);
 * const labels = ids.map((id) => (id + 1) % 4);
 * const run = train(model, [{ ids, labels }], { epochs: 5, batchSize: 1, learningRate: 1e-2 });
 * for await (const { step, loss } of run) console.log(step, loss);
 * ```
 */
export async function* train(
  model: LanguageModel,
  dataset: Dataset,
  options: TrainOptions = {},
): AsyncGenerator<TrainProgress> {
  using trainer = new Trainer(model, dataset, options);
  yield* trainer.run();
}
