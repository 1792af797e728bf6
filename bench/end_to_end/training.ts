/**
 * Training steps, as `train` makes them.
 *
 * @module
 */
import { Random } from "../../core/random.ts";
import type { Device } from "../../core/device.ts";
import { addLora } from "../../train/adapters/lora.ts";
import type { LoraOptions } from "../../train/adapters/lora_options.ts";
import type { Sequence } from "../../train/data/dataset.ts";
import { chunk } from "../../train/data/packing.ts";
import { Trainer, type TrainOptions } from "../../train/loop.ts";
import { profile } from "../profile.ts";
import { drawModel } from "./random_model.ts";
import { sampleRuns } from "./sampling.ts";
import type { ModelShape } from "./shapes.ts";
import { ColdRun, type Measured, type MeasureOptions, memoryOf, type Work } from "./work.ts";

/** A way of training. */
export interface TrainingWork {
  /** What comes before the model's name: "qlora". */
  readonly kind: string;
  /** What comes after it: "r16-all". */
  readonly variant?: string;
  /** The model. */
  readonly model: ModelShape;
  /** Rows of a batch, and tokens of a row. */
  readonly batch: readonly [rows: number, length: number];
  /** An adapter on a model in NF4; without it, all of a model in 32 bits is trained. */
  readonly lora?: LoraOptions;
  /** Other options of the trainer. */
  readonly training?: TrainOptions;
}

const TINY_BATCH = [2, 32] as const;

/** Batches of a pass over the data. */
const BATCHES = 4;

/** The trainer plans all steps beforehand: so many tokens, so that it takes no time. */
const MOST_TOKENS = 1 << 22;

/** Sequences that fill `rows` rows, every token with a label. */
function randomSequences(rows: number, length: number, vocabSize: number): Sequence[] {
  const random = new Random(3);
  return chunk(
    Int32Array.from({ length: rows * length + 1 }, () => random.integer(vocabSize)),
    length,
  );
}

/** A trainer in which nothing has run, so that its first step is cold. */
async function prepare(
  device: Device,
  { model: shape, lora, training }: TrainingWork,
  [rows, length]: readonly [number, number],
  isTiny: boolean,
): Promise<{ trainer: Trainer; steps: number; free: () => void }> {
  const json = isTiny ? shape.tiny : shape.full;
  const model = await drawModel(device, json, {
    quantize: lora ? "nf4" : undefined,
    trainable: lora ? "none" : "all",
  });
  if (lora) addLora(model, isTiny ? { ...lora, r: Math.min(lora.r ?? 8, 4) } : lora);
  const dataset = randomSequences(BATCHES * rows, length, model.config.vocabSize);
  const steps = Math.min(Math.max(Math.ceil(MOST_TOKENS / (rows * length)), 128), 8192);
  const trainer = new Trainer(model, dataset, { ...training, batchSize: rows, length, steps });
  const free = () => {
    trainer[Symbol.dispose]();
    model.dispose();
    device.trim();
  };
  return { trainer, steps, free };
}

async function measure(
  device: Device,
  work: TrainingWork,
  isTiny: boolean,
  options: MeasureOptions,
): Promise<Measured> {
  const [rows, length] = isTiny ? TINY_BATCH : work.batch;
  const { trainer, steps, free } = await prepare(device, work, [rows, length], isTiny);
  try {
    device.pool.resetPeak();
    // The trainer throws where a loss is not finite.
    const run = async (count: number) => {
      for await (const _ of trainer.run(trainer.step + count));
    };
    const clock = new ColdRun(device);
    await run(1);
    const cold = clock.end();
    const most = Math.min(options.most ?? steps, steps) - 8;
    const { median, min, max, dispatches, clockMhz } = await sampleRuns(device, run, {
      ...options,
      most,
    });
    const found = {
      shape: `batch=${rows} length=${length}${isTiny ? " tiny" : ""}`,
      ms: median,
      minMs: min,
      maxMs: max,
      tokensPerSecond: 1000 * rows * length / median,
      ...cold,
      dispatches,
      clockMhz,
      ...await memoryOf(device),
    };
    return options.profile ? { ...found, profile: await profile(device, () => run(1)) } : found;
  } finally {
    free();
  }
}

/** A row for a way of training. */
export function trainingWork(work: TrainingWork): Work {
  const { kind, model, variant, batch } = work;
  return {
    name: [kind, model.name, variant, batch.join("x")].filter(Boolean).join(" "),
    model,
    measure: (device, size, options) => measure(device, work, size === "tiny", options),
  };
}
