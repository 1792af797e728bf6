/**
 * One training step: forward and backward of its batches, then the optimizer, each recorded once and replayed.
 *
 * @module
 */
import { noGrad } from "../core/autograd.ts";
import {
  capture,
  type CapturedStep,
  type CaptureOptions,
  type StepInput,
} from "../core/capture.ts";
import type { Device } from "../core/device.ts";
import { type Tensor, viewOf, zeros } from "../core/tensor.ts";
import { distillation } from "../kernels/loss/distillation.ts";
import { IGNORED } from "./data/dataset.ts";
import type { PackedBatch } from "./data/packing.ts";
import type { LanguageModel, LossOptions } from "./models/language_model.ts";
import type { Checkpointing } from "./models/run_blocks.ts";
import { AdamW, type AdamWOptions } from "./optim/adamw.ts";
import { FlatParameters } from "./optim/flat_parameters.ts";

/** Where more of a batch's places than this have labels, logits are computed everywhere. */
const DENSE_SHARE = 0.5;

/** Places with labels are padded to a multiple of this: kernels work on groups of rows. */
const PLACES_MULTIPLE = 8;

/** How steps are made. */
export interface TrainStepOptions extends AdamWOptions, CaptureOptions {
  /** The most labels that a batch of the run has: all batches are padded to it, so that one shape is recorded. */
  readonly mostTargets: number;
  /** Rows of a batch. */
  readonly rows: number;
  /** Places in a row. */
  readonly length: number;
  /** Whether blocks are computed again in the backward pass; see `TrainOptions`. */
  readonly checkpointing?: Checkpointing;
  /** Whose predictions are learnt instead of the labels; see `TrainOptions`. */
  readonly teacher?: LanguageModel;
}

/** A batch's loss. Labels say where there is something to learn, and without a teacher also what. */
function lossOf(
  model: LanguageModel,
  teacher: LanguageModel | undefined,
  ids: Tensor,
  targets: Tensor,
  options: LossOptions,
): Tensor {
  if (!teacher) return model.targetLoss(ids, targets, options);
  const { positions, places } = options;
  const wanted = noGrad(() => teacher.forward(ids, { positions, places }));
  return distillation(model.forward(ids, options), wanted, targets, options);
}

/** Makes steps, and keeps their losses on the GPU until someone asks. */
export class TrainStep {
  /** The trainable parameters. */
  readonly parameters: FlatParameters;
  /** The optimizer. */
  readonly optimizer: AdamW;
  readonly #device: Device;
  readonly #learn: CapturedStep<Tensor>;
  readonly #update: CapturedStep<Tensor>;
  /** Places at which logits are computed, or 0 for all. */
  readonly #places: number;
  readonly #rows: number;
  readonly #length: number;
  #ring: Tensor;
  #used = 0;
  /** For each step that was not read: how many losses it has in the ring, before its norm. */
  readonly #pending: number[] = [];

  /** Moves the model's parameters into one buffer, and records nothing yet. */
  constructor(model: LanguageModel, options: TrainStepOptions) {
    const { device } = model;
    this.#device = device;
    this.parameters = new FlatParameters(model.parameters());
    this.optimizer = new AdamW(this.parameters, options);
    const { mostTargets, rows, length, checkpointing, teacher } = options;
    this.#rows = rows;
    this.#length = length;
    const padded = Math.max(1, Math.ceil(mostTargets / PLACES_MULTIPLE)) * PLACES_MULTIPLE;
    this.#places = padded > DENSE_SHARE * rows * length ? 0 : padded;
    this.#learn = capture(device, (ids, positions, targets, count, places) => {
      const options = { positions, places, count, checkpointing };
      const loss = lossOf(model, teacher, ids, targets, options);
      this.parameters.addGradients(loss);
      return loss;
    }, options);
    this.#update = capture(device, () => this.optimizer.step(), options);
    this.#ring = device.keep(zeros(device, [64]));
  }

  /** So many steps wait to be read. */
  get waiting(): number {
    return this.#pending.length;
  }

  /** Records the step without running it: the device then holds all the memory that it will take. */
  prepare(): void {
    const places = this.#rows * this.#length;
    const of = () => new Int32Array(places);
    const [rows, length] = [this.#rows, this.#length];
    const batch = { ids: of(), positions: of(), labels: of().fill(IGNORED), sequences: of() };
    const count = { data: new Float32Array(1), shape: [1] };
    this.#learn.record(...this.#inputs({ ...batch, rows, length, targets: 0, tokens: 0 }, count));
    this.#update.record();
  }

  /**
   * Queues one step. Every label token of its batches weighs the same, whatever batch it is in.
   *
   * @param batches what is learnt from; their gradients are summed
   * @param step its number, counted from 1
   * @param learningRate its learning rate
   */
  run(batches: readonly PackedBatch[], step: number, learningRate: number): void {
    const targets = batches.reduce((sum, batch) => sum + batch.targets, 0);
    const count = { data: Float32Array.of(Math.max(1, targets)), shape: [1] };
    this.#reserve(batches.length + 1);
    for (const batch of batches) this.#keep(this.#learn(...this.#inputs(batch, count)));
    this.optimizer.prepare(step, learningRate);
    this.#keep(this.#update());
    this.#device.flush();
    this.#pending.push(batches.length);
  }

  /** A batch as the recorded step takes it. */
  #inputs({ rows, length, ...batch }: PackedBatch, count: StepInput): StepInput[] {
    const ids = { data: batch.ids, shape: [rows, length] };
    const positions = { data: batch.positions, shape: [rows, length] };
    const { labels } = batch;
    if (this.#places === 0) {
      return [ids, positions, { data: labels, shape: [labels.length] }, count];
    }
    const places = new Int32Array(this.#places);
    const targets = new Int32Array(this.#places).fill(IGNORED);
    let at = 0;
    for (let i = 0; i < labels.length; i++) {
      if (labels[i] === IGNORED) continue;
      places[at] = i;
      targets[at++] = labels[i];
    }
    const shape = [this.#places];
    return [ids, positions, { data: targets, shape }, count, { data: places, shape }];
  }

  /** Makes room for so many more numbers in the ring. */
  #reserve(numbers: number): void {
    if (this.#used + numbers <= this.#ring.size) return;
    const device = this.#device;
    const larger = device.keep(zeros(device, [2 * (this.#used + numbers)]));
    device.copy(this.#ring, viewOf(larger, this.#ring.shape));
    this.#ring.dispose();
    this.#ring = larger;
  }

  #keep(value: Tensor): void {
    const slot = viewOf(this.#ring, [1], "f32", 4 * this.#used++);
    this.#device.copy(viewOf(value, [1]), slot);
  }

  /** Waits for all queued steps, and gives the loss and the gradient's norm of each that was not read yet. */
  async read(): Promise<{ loss: number; gradNorm: number }[]> {
    const numbers = await this.#ring.read();
    let at = 0;
    const found = this.#pending.map((losses) => {
      let loss = 0;
      for (let i = 0; i < losses; i++) loss += numbers[at++];
      return { loss, gradNorm: numbers[at++] };
    });
    this.#pending.length = 0;
    this.#used = 0;
    return found;
  }

  /** Frees the recordings, gradients and moments. The weights stay. */
  dispose(): void {
    this.#ring.dispose();
    this.#update.dispose();
    this.#learn.dispose();
    this.optimizer.dispose();
    this.parameters.dispose();
  }
}
