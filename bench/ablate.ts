/**
 * The ablation harness: which rank, which modules, how many bits? Every combination is fine-tuned with several seeds, on one
 * model that is loaded and quantized once.
 *
 * @module
 */
import type { Device } from "../core/device.ts";
import { addLora, type Lora } from "../train/adapters/lora.ts";
import { ALL_LINEAR, matchTargets } from "../train/adapters/targets.ts";
import { type Example, type Sequence, tokenizeExamples } from "../train/data/dataset.ts";
import { evaluateAccuracy } from "../train/eval/accuracy.ts";
import { evaluatePerplexity } from "../train/eval/perplexity.ts";
import { Trainer, type TrainOptions } from "../train/loop.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel, type LoadOptions } from "../train/models/load.ts";
import { type AblationSummary, spreadOf, summarize, writeReport } from "./ablate_report.ts";
import {
  type AblationMeasures,
  type AblationRun,
  type AblationSetting,
  digest,
  digestModel,
  RunStore,
} from "./ablate_store.ts";

/** What is told about a run in progress. */
export interface AblationProgress extends AblationSetting {
  /** Which run of those that are to be made now, counted from 1; finished ones are not among them. */
  readonly run: number;
  /** How many runs are to be made now. */
  readonly runs: number;
  /** Steps made in this run. */
  readonly step: number;
  /** Steps of this run. */
  readonly steps: number;
  /** The loss of this step. */
  readonly loss: number;
  /** Tokens in a second; 0 while it is not known. */
  readonly tokensPerSecond: number;
}

/** What is compared, on what. */
export interface AblationOptions extends Omit<LoadOptions, "trainable"> {
  /** The folder of the base model. */
  readonly model: string;
  /** The ranks. */
  readonly ranks: readonly number[];
  /** Sets of layers, each a list as `targetModules` has it; `["all"]` is every linear layer. */
  readonly modules: readonly (readonly string[])[];
  /** How many seeds, counted from 0: 1 by default, which gives no spread. */
  readonly seeds?: number;
  /** What is trained on. */
  readonly train: readonly Example[];
  /** What accuracy is measured on. */
  readonly test: readonly Example[];
  /** A held-out text's tokens: perplexity is then measured on them, and not on the test answers. */
  readonly perplexityIds?: Int32Array;
  /** Tokens of a window of that text; by default as `evaluatePerplexity` has it. */
  readonly window?: number;
  /** Alpha for each rank: 2 by default, so alpha = 2 · r. That is PEFT users' rule of thumb, not a theorem; it keeps the scale. */
  readonly alphaPerRank?: number;
  /** LoRA's dropout: 0 by default. */
  readonly dropout?: number;
  /** Scale by alpha / √r instead of alpha / r. */
  readonly useRslora?: boolean;
  /** How every run is trained. */
  readonly training?: Omit<TrainOptions, "seed">;
  /** Where runs and reports go. */
  readonly outDir: string;
  /** Told about each step. */
  readonly onProgress?: (progress: AblationProgress) => void;
  /** Told about each run that was made. */
  readonly onRun?: (run: AblationRun) => void;
}

/** What an ablation found. */
export interface AblationReport {
  /** The adapter's name. */
  readonly adapter: string;
  /** All that the runs have in common. Model and data stand there as digests. */
  readonly common: Readonly<Record<string, unknown>>;
  /** What perplexity was measured on. */
  readonly perplexityOf: "test answers" | "held-out text";
  /** How many examples were trained on, and tested on. */
  readonly examples: { readonly train: number; readonly test: number };
  /** A row for each rank and set of modules. */
  readonly summary: readonly AblationSummary[];
  /** Every run. */
  readonly runs: readonly AblationRun[];
}

/** A report, and what became of the runs. */
export interface Ablation extends AblationReport {
  /** Where the report was written. */
  readonly files: { readonly json: string; readonly csv: string };
  /** Runs that were found finished. */
  readonly resumed: number;
}

/** A set of modules as it is named in reports: the same set in another order has the same name. */
function nameOf(modules: readonly string[]): string {
  const all = modules.length === 1 && (modules[0] === "all" || modules[0] === ALL_LINEAR);
  return all ? ALL_LINEAR : [...new Set(modules)].sort().join(",");
}

function targetsOf(name: string): readonly string[] | string {
  return name === ALL_LINEAR ? name : name.split(",");
}

/** Every combination, each once, seeds innermost. */
function settingsOf(options: AblationOptions): AblationSetting[] {
  const { ranks, modules, seeds = 1, alphaPerRank = 2 } = options;
  const wrong = ranks.find((r) => !(Number.isSafeInteger(r) && r >= 1));
  if (wrong !== undefined || ranks.length === 0) {
    throw new RangeError(
      `Cannot ablate: found ${
        wrong === undefined ? "no rank" : `rank ${wrong}`
      }, wanted whole numbers of at least 1`,
    );
  }
  if (!(Number.isSafeInteger(seeds) && seeds >= 1)) {
    throw new RangeError(`Cannot ablate: found ${seeds} seeds, wanted a whole number, at least 1`);
  }
  if (!(alphaPerRank > 0 && Number.isFinite(alphaPerRank))) {
    throw new RangeError(`Cannot ablate: found alphaPerRank ${alphaPerRank}, wanted more than 0`);
  }
  if (modules.length === 0) {
    throw new RangeError('Cannot ablate: found no modules, wanted sets such as ["q_proj"]');
  }
  const settings: AblationSetting[] = [];
  for (const name of new Set(modules.map(nameOf))) {
    for (const r of new Set(ranks)) {
      for (let seed = 0; seed < seeds; seed++) {
        settings.push({ r, alpha: alphaPerRank * r, modules: name, seed });
      }
    }
  }
  return settings;
}

/** Options of training that change no number. */
const WITHOUT_EFFECT = new Set(["readEvery", "replay", "overlap", "recompute", "checkpointing"]);

/** All but the setting that a run's numbers depend on, the machine included: seconds of two machines do not mix. */
async function commonOf(
  device: Device,
  options: AblationOptions,
): Promise<Record<string, unknown>> {
  const { quantize, doubleQuant, blockSize, train, test, perplexityIds, dropout, useRslora } =
    options;
  const sorted = Object.entries(options.training ?? {})
    .filter(([key, value]) => value !== undefined && !WITHOUT_EFFECT.has(key)).sort();
  return {
    adapter: device.adapter.name,
    model: await digestModel(options.model),
    quantize: quantize ?? "none",
    doubleQuant: doubleQuant ?? false,
    blockSize: blockSize ?? null,
    // Rounding changes results; what else is kept in 16 bits does not.
    ...options.weights === "f16" ? { weights: "f16" } : {},
    train: digest(train),
    test: digest(test),
    text: perplexityIds ? digest([Array.from(perplexityIds), options.window ?? null]) : null,
    dropout: dropout ?? 0,
    useRslora: useRslora ?? false,
    training: Object.fromEntries(sorted),
  };
}

/** What the runs share. */
class Bench {
  readonly #model: LanguageModel;
  readonly #options: AblationOptions;
  readonly #train: readonly Sequence[];
  readonly #test: readonly Sequence[];

  constructor(model: LanguageModel, options: AblationOptions) {
    const { tokenizer, config } = model;
    if (!tokenizer) {
      throw new TypeError(
        `Cannot ablate the model in "${options.model}": found no tokenizer.json, wanted the model's own tokenizer in its folder`,
      );
    }
    const { contextLength } = config;
    this.#model = model;
    this.#options = options;
    this.#train = tokenizeExamples(tokenizer, options.train, {
      maxLength: options.training?.length ?? contextLength,
    });
    this.#test = tokenizeExamples(tokenizer, options.test, { maxLength: contextLength });
  }

  /** A fresh adapter, exactly the same for the same setting. */
  #lora({ r, alpha, modules, seed }: AblationSetting): Lora {
    const { dropout, useRslora } = this.#options;
    const targetModules = targetsOf(modules);
    return addLora(this.#model, { r, alpha, dropout, useRslora, targetModules, seed });
  }

  #trainer(seed: number): Trainer {
    return new Trainer(this.#model, this.#train, { ...this.#options.training, seed });
  }

  /** Compiles what a combination needs, by one step that is thrown away: the seconds of its runs are then without it. */
  async warmUp(setting: AblationSetting): Promise<void> {
    const lora = this.#lora(setting);
    try {
      using trainer = this.#trainer(setting.seed);
      for await (const _ of trainer.run(1));
    } finally {
      lora.remove();
    }
  }

  /** Makes a run. The model is afterwards as it was. */
  async run(
    setting: AblationSetting,
    onStep: (step: Pick<AblationProgress, "step" | "steps" | "loss" | "tokensPerSecond">) => void,
  ): Promise<AblationMeasures> {
    const lora = this.#lora(setting);
    try {
      const trained = await this.#fit(setting.seed, onStep);
      const accuracy = await evaluateAccuracy(this.#model, this.#test);
      return {
        accuracy: accuracy.accuracy,
        perplexity: await this.#perplexity() ?? Math.exp(accuracy.nll / accuracy.tokens),
        trainable: lora.count,
        adapterBytes: lora.bytes,
        ...trained,
      };
    } finally {
      lora.remove();
    }
  }

  async #perplexity(): Promise<number | null> {
    const { perplexityIds, window } = this.#options;
    if (!perplexityIds) return null;
    return (await evaluatePerplexity(this.#model, perplexityIds, { window })).perplexity;
  }

  async #fit(
    seed: number,
    onStep: (step: Pick<AblationProgress, "step" | "steps" | "loss" | "tokensPerSecond">) => void,
  ): Promise<
    Pick<AblationMeasures, "seconds" | "tokensPerSecond" | "peakBytes" | "loss" | "steps">
  > {
    const { device } = this.#model;
    device.pool.resetPeak();
    using trainer = this.#trainer(seed);
    const losses: number[] = [];
    let tokens = 0;
    const start = performance.now();
    for await (const told of trainer.run()) {
      losses.push(told.loss);
      tokens = told.tokens;
      onStep(told);
    }
    const seconds = (performance.now() - start) / 1000;
    return {
      seconds,
      tokensPerSecond: tokens / seconds,
      peakBytes: device.memory.peak,
      // One batch's loss is mostly noise.
      loss: spreadOf(losses.slice(-Math.ceil(losses.length / 10))).mean,
      steps: trainer.steps,
    };
  }
}

/** Makes the runs that are not in the store, and stores each as soon as it is finished. */
async function makeRuns(
  bench: Bench,
  device: Device,
  missing: readonly (AblationSetting & { readonly key: string })[],
  store: RunStore,
  { onProgress, onRun }: AblationOptions,
): Promise<void> {
  let warm = "";
  for (const [index, { key, ...setting }] of missing.entries()) {
    const place = { run: index + 1, runs: missing.length };
    const combination = `${setting.modules} ${setting.r}`;
    try {
      if (warm !== combination) {
        // Another rank has buffers of other sizes: those of the last one would lie idle.
        device.trim();
        await bench.warmUp(setting);
        warm = combination;
      }
      const found = await bench.run(setting, ({ step, steps, loss, tokensPerSecond }) => {
        onProgress?.({ ...setting, ...place, step, steps, loss, tokensPerSecond });
      });
      const run = { key, ...setting, ...found };
      await store.add(run);
      onRun?.(run);
    } catch (error) {
      const { r, modules, seed } = setting;
      throw new Error(
        `Cannot finish run ${place.run} of ${place.runs} (r ${r}, ${modules}, seed ${seed}): ${
          (error as Error).message
        }`,
        { cause: error },
      );
    }
  }
}

/**
 * Fine-tunes LoRA at every rank, on every set of modules, with every seed, on one model: it is loaded and quantized once, kernels
 * are compiled once, and a run leaves nothing in memory.
 *
 * Each finished run is stored in `outDir` at once, under a key of all that its numbers depend on. An ablation that was stopped
 * therefore goes on where it was; with other settings, another model or other data the runs are others, and the earlier ones stay
 * in the folder for when they are asked for again. A setting gives the same accuracy, perplexity and loss in whatever order, in one
 * go or not. The report, ablation.json and ablation.csv, is of the runs that were asked for.
 *
 * @param device where to run
 * @param options what is compared
 * @returns every run, a row for each rank and set of modules, and where the report is
 * @throws {RangeError} before anything runs, if an option makes no sense, there is no example, or the model has no such layers
 * @throws {Error} if a file cannot be read or written, or a run diverges
 *
 * @example
 * ```ts ignore
 * using device = await openDevice();
 * const { summary } = await ablate(device, {
 *   model: "./SmolLM2-135M",
 *   quantize: "nf4",
 *   ranks: [1, 2, 4, 8],
 *   modules: [["q_proj"], ["q_proj", "v_proj"], ["all"]],
 *   seeds: 3,
 *   train: await readJsonl("train.jsonl"),
 *   test: await readJsonl("test.jsonl"),
 *   training: { epochs: 2, learningRate: 2e-4 },
 *   outDir: "./ablation",
 * });
 * for (const { r, modules, accuracy } of summary) console.log(r, modules, accuracy.mean, accuracy.deviation);
 * ```
 */
export async function ablate(device: Device, options: AblationOptions): Promise<Ablation> {
  const settings = settingsOf(options);
  const { quantize, doubleQuant, blockSize, dequantize, weights, outDir, perplexityIds } = options;
  const model = await loadModel(device, options.model, {
    quantize,
    doubleQuant,
    blockSize,
    dequantize,
    weights,
  });
  try {
    const paths = [...model.linearLayers()].map(([path]) => path);
    for (const name of new Set(settings.map(({ modules }) => modules))) {
      matchTargets(paths, targetsOf(name));
    }
    const bench = new Bench(model, options);
    const common = await commonOf(device, options);
    const keyed = settings.map((setting) => ({ ...setting, key: digest({ common, setting }) }));
    const store = await RunStore.open(outDir);
    const missing = keyed.filter(({ key }) => !store.get(key));
    await makeRuns(bench, device, missing, store, options);
    const runs = keyed.map(({ key }) => store.get(key)!);
    const report: AblationReport = {
      adapter: device.adapter.name,
      common,
      perplexityOf: perplexityIds ? "held-out text" : "test answers",
      examples: { train: options.train.length, test: options.test.length },
      summary: summarize(runs),
      runs,
    };
    const files = await writeReport(outDir, report);
    return { ...report, files, resumed: keyed.length - missing.length };
  } finally {
    model.dispose();
    device.trim();
  }
}
