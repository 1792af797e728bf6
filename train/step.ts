/**
 * One training step: forward and backward of its batches, then the optimizer, each recorded once and replayed.
 *
 * @module
 */
import { backward } from "../core/autograd.ts";
import { capture, type StepInput } from "../core/capture.ts";
import type { Device } from "../core/device.ts";
import { type Tensor, viewOf, zeros } from "../core/tensor.ts";
import { crossEntropy } from "../kernels/loss/cross_entropy.ts";
import { IGNORED } from "./data/dataset.ts";
import type { PackedBatch } from "./data/packing.ts";
import type { LanguageModel } from "./models/language_model.ts";
import { AdamW, type AdamWOptions } from "./optim/adamw.ts";
import { FlatParameters } from "./optim/flat_parameters.ts";

/** Where more of a batch's places than this have labels, logits are computed everywhere. */
const DENSE_SHARE = 0.5;

/** Label places are padded to a multiple of this share of a batch, so that few shapes are recorded. */
const PLACE_SHARE = 1 / 16;

/** How steps are made. */
export interface TrainStepOptions extends AdamWOptions {
  /** `false` runs every step eagerly instead of replaying a recording; the weights are bit-identical. */
  readonly replay?: boolean;
}

/** Makes steps, and keeps their losses on the GPU until someone asks. */
export class TrainStep {
  /** The trainable parameters. */
  readonly parameters: FlatParameters;
  /** The optimizer. */
  readonly optimizer: AdamW;
  readonly #device: Device;
  readonly #accumulate: {
    dense: (...inputs: StepInput[]) => Tensor;
    sparse: (...inputs: StepInput[]) => Tensor;
  };
  readonly #update: () => Tensor;
  #ring: Tensor;
  #used = 0;
  /** For each step that was not read: how many losses it has in the ring, before its norm. */
  readonly #pending: number[] = [];

  /** Moves the model's parameters into one buffer, and records nothing yet. */
  constructor(model: LanguageModel, options: TrainStepOptions = {}) {
    const { device } = model;
    this.#device = device;
    this.parameters = new FlatParameters(model.parameters());
    this.optimizer = new AdamW(this.parameters, options);
    const learn = (logits: Tensor, targets: Tensor, count: Tensor) => {
      const loss = crossEntropy(logits, targets, { count });
      backward(loss);
      this.parameters.gather();
      return loss;
    };
    const { replay } = options;
    this.#accumulate = {
      dense: capture(
        device,
        (ids, positions, targets, count) =>
          learn(model.forward(ids, { positions }), targets, count),
        { replay },
      ),
      sparse: capture(
        device,
        (ids, positions, targets, count, places) =>
          learn(model.forward(ids, { positions, places }), targets, count),
        { replay },
      ),
    };
    this.#update = capture(device, () => this.optimizer.step(), { replay });
    this.#ring = device.keep(zeros(device, [64]));
  }

  /** So many steps wait to be read. */
  get waiting(): number {
    return this.#pending.length;
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
    for (const batch of batches) this.#keep(this.#learn(batch, count));
    this.optimizer.prepare(step, learningRate);
    this.#keep(this.#update());
    this.#device.flush();
    this.#pending.push(batches.length);
  }

  #learn(batch: PackedBatch, count: StepInput): Tensor {
    const { rows, length, labels, targets } = batch;
    const shape = [rows, length];
    const ids = { data: batch.ids, shape };
    const positions = { data: batch.positions, shape };
    const size = rows * length;
    if (targets > DENSE_SHARE * size) {
      const flat = { data: labels, shape: [size] };
      return this.#accumulate.dense(ids, positions, flat, count);
    }
    const unit = Math.max(1, Math.ceil(size * PLACE_SHARE));
    const padded = Math.max(1, Math.ceil(targets / unit)) * unit;
    const places = new Int32Array(padded);
    const wanted = new Int32Array(padded).fill(IGNORED);
    let at = 0;
    for (let i = 0; i < size; i++) {
      if (labels[i] === IGNORED) continue;
      places[at] = i;
      wanted[at++] = labels[i];
    }
    return this.#accumulate.sparse(
      ids,
      positions,
      { data: wanted, shape: [padded] },
      count,
      { data: places, shape: [padded] },
    );
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

  /** Frees gradients and moments. The weights stay. */
  dispose(): void {
    this.#ring.dispose();
    this.optimizer.dispose();
    this.parameters.dispose();
  }
}
