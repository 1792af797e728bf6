/** `nibble ablate`: which rank, which modules? A table with error bars. */
import { z } from "zod";
import { ablate, type Ablation, type AblationProgress } from "../bench/ablate.ts";
import type { AblationSummary, Spread } from "../bench/ablate_report.ts";
import { openDevice } from "../core/device.ts";
import { type Example, readJsonl, readText } from "../train/data/dataset.ts";
import { loadTokenizer } from "../train/files/tokenizer.ts";
import type { TrainOptions } from "../train/loop.ts";
import type { LoadOptions } from "../train/models/load.ts";
import { type Command, defineCommand } from "./command.ts";
import { choose, embedded } from "./embedded.ts";
import { FIELD_OPTIONS } from "./field_options.ts";
import { LateBar } from "./late_bar.ts";
import { MODEL_OPTIONS, modelFolder } from "./model_options.ts";
import { integerList, jsonSwitch, textSets } from "./options.ts";
import {
  bytes,
  duration,
  grouped,
  percent,
  printJson,
  printLine,
  sayUnless,
  significant,
  table,
} from "./print.ts";
import { LORA_OPTIONS, TRAINING_OPTIONS } from "./train_options.ts";

/** How the embedded model is loaded and trained, where the options leave it open. */
const EMBEDDED = {
  quantization: { quantize: "nf4" as const, doubleQuant: true },
  /** The base is tiny, and takes a larger rate and smaller batches than the models that the usual defaults are for. */
  training: { learningRate: 5e-3, batchSize: 2 },
};

/** Streams of a data seed ("abl" in ASCII, and a number). */
const STREAMS = { train: 0x61626c01, test: 0x61626c02 };

const GRID = "What is compared";
const DATA = "Data";
const { seed: _, learningRate, batchSize, ...TRAINING } = TRAINING_OPTIONS;
const { dropout, rslora } = LORA_OPTIONS;

const OPTIONS = z.strictObject({
  ranks: integerList(1).default([1, 2, 4, 8])
    .meta({ description: "ranks", group: GRID, aka: ["rank", "r"] }),
  modules: textSets().default([["q_proj"], ["q_proj", "v_proj"], ["all"]]).meta({
    description: 'sets of layers that get an adapter; "all" is every linear layer',
    group: GRID,
    aka: ["target-modules"],
  }),
  seeds: z.int().min(1).default(2)
    .meta({ description: "how many seeds for each, from 0", group: GRID, aka: ["seed"] }),
  alphaPerRank: z.number().positive().default(2).meta({
    description: "alpha is so many times the rank (2: PEFT users' rule of thumb)",
    group: GRID,
    aka: ["alpha"],
  }),
  ...MODEL_OPTIONS,
  model: MODEL_OPTIONS.model.optional().meta({
    description: "a model folder, or org/name of the Hugging Face hub; by default the embedded " +
      "model in NF4 with double quantization",
    placeholder: "FOLDER",
  }),
  doubleQuant: z.boolean().optional().meta({
    ...MODEL_OPTIONS.doubleQuant.meta(),
    description: "quantize the scales too (with --quantize); --no-double-quant: not on the " +
      "embedded model either",
  }),
  out: z.string().min(1).default("./ablation").meta({
    description: "where runs and reports go; an ablation that was stopped goes on from there",
    placeholder: "FOLDER",
  }),
  data: z.string().min(1).optional().meta({
    description: "JSONL to train on, a prompt and an answer a line; by default the embedded task",
    placeholder: "FILE",
    group: DATA,
  }),
  test: z.string().min(1).optional().meta({
    description: "JSONL to measure accuracy on (with --data)",
    placeholder: "FILE",
    group: DATA,
  }),
  ...FIELD_OPTIONS,
  examples: z.int().min(1).default(1000)
    .meta({ description: "train on so many of them, chosen at random", group: DATA }),
  testExamples: z.int().min(1).default(500)
    .meta({ description: "measure on so many, chosen at random", group: DATA }),
  dataSeed: z.int().min(0).default(0)
    .meta({ description: "of that choice, which is the same for all runs", group: DATA }),
  text: z.string().min(1).optional().meta({
    description: "measure perplexity on this text; by default on the test answers",
    placeholder: "FILE",
    group: DATA,
  }),
  window: z.int().min(2).optional()
    .meta({
      description: "tokens of a window of that text; 1024, or the model's context if that is less",
      group: DATA,
    }),
  ...TRAINING,
  learningRate: learningRate.unwrap().optional().meta({
    ...learningRate.meta(),
    description: "the largest learning rate; 2e-4, or 5e-3 for the embedded model",
  }),
  batchSize: batchSize.unwrap().optional().meta({
    ...batchSize.meta(),
    description: "rows of a batch; 8, or 2 for the embedded model",
  }),
  dropout,
  rslora,
  json: jsonSwitch(),
});

type AblateChoice = z.output<typeof OPTIONS>;

async function chooseFrom(
  path: string,
  most: number,
  stream: number,
  { promptField, answerField, dataSeed }: AblateChoice,
): Promise<{ chosen: Example[]; of: number }> {
  const examples = await readJsonl(path, { promptField, answerField });
  return { chosen: choose(examples, most, dataSeed, stream), of: examples.length };
}

/** One bar over the steps of all runs. How many there will be is known from the first run on. */
class AblationBar implements Disposable {
  readonly #bar: LateBar;
  #total = 0;
  #accuracy: string | undefined;

  constructor(json: boolean) {
    this.#bar = new LateBar({ label: "Ablating, step", json });
  }

  readonly update = (told: AblationProgress): void => {
    const { run, runs, r, modules, seed, step, steps, loss, tokensPerSecond } = told;
    this.#total ||= runs * steps;
    // Another seed may pack its batches into a step more or less.
    const done = (run - 1) * (this.#total / runs) + Math.min(step, steps);
    this.#bar.update(Math.round(Math.min(this.#total, done)), this.#total, {
      loss,
      tokensPerSecond: tokensPerSecond || undefined,
      run: `${run}/${runs} (r ${r}, ${modules}, seed ${seed})`,
      "last accuracy": this.#accuracy,
    });
  };

  finished(accuracy: number): void {
    this.#accuracy = percent(accuracy);
  }

  stop(): void {
    this.#bar.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}

function spread({ mean, deviation }: Spread, show: (value: number) => string): string {
  return `${show(mean)} ± ${deviation === null ? "–" : show(deviation)}`;
}

function mark({ isBest, isRecommended }: AblationSummary): string {
  return [isBest ? "best" : "", isRecommended ? "smallest" : ""].filter(Boolean).join(", ");
}

function showTable(summary: readonly AblationSummary[]): string {
  const head = ["modules", "r", "accuracy %", "perplexity", "trainable", "size", "time", ""];
  const rows = summary.map((row) => [
    row.modules,
    row.r,
    spread(row.accuracy, (share) => (100 * share).toFixed(1)),
    spread(row.perplexity, significant),
    grouped(row.trainable),
    bytes(row.adapterBytes),
    duration(row.seconds),
    mark(row),
  ]);
  return table(head, rows, { right: [2, 3, 4, 5, 6] });
}

/** What to take from the table. */
function advice(summary: readonly AblationSummary[]): string {
  const name = ({ r, modules }: AblationSummary) => `r ${r} on ${modules}`;
  const best = summary.find(({ isBest }) => isBest);
  const small = summary.find(({ isRecommended }) => isRecommended);
  if (!best || !small) {
    return "No run answers any example exactly, so none is best: train longer (--epochs), or at another --learning-rate";
  }
  const start = `Best: ${name(best)}, ${percent(best.accuracy.mean)}.`;
  if (best.accuracy.deviation === null) {
    return `${start} One seed says nothing about its spread: --seeds 3 does`;
  }
  const within = "Smallest within one standard deviation of the best";
  if (small === best) return `${start} ${within}: the same`;
  return `${start} ${within}: ${name(small)}, ${percent(small.accuracy.mean)} with ${
    percent(small.trainable / best.trainable)
  } of its parameters`;
}

function showResult(found: Ablation): void {
  printLine();
  printLine(showTable(found.summary));
  printLine();
  const { train, test } = found.examples;
  printLine(
    `Means ± sample standard deviations over seeds; accuracy on ${
      grouped(test)
    } examples after training on ${
      grouped(train)
    }; perplexity on the ${found.perplexityOf}; time is training alone`,
  );
  printLine(advice(found.summary));
  printLine(`Every run is in ${found.files.json} and ${found.files.csv}`);
}

/** How the model is loaded: the embedded one in 4 bits, unless others are said, or none. */
function quantizationOf(
  { model, quantize, doubleQuant, dequantize, blockSize, weights }: AblateChoice,
): LoadOptions {
  const inFour = model === undefined && quantize === undefined && !dequantize;
  return {
    ...inFour
      ? { ...EMBEDDED.quantization, ...doubleQuant === undefined ? {} : { doubleQuant } }
      : { quantize, doubleQuant, dequantize },
    ...{ blockSize, weights },
  };
}

/** How each run is trained. */
function trainingOf(options: AblateChoice): TrainOptions {
  const { steps, epochs, length, accumulation, schedule, warmup, weightDecay, maxGradNorm } =
    options;
  const { learningRate, batchSize } = options;
  return {
    ...{ steps, epochs, length, accumulation, schedule, warmup, weightDecay, maxGradNorm },
    ...options.model === undefined ? EMBEDDED.training : {},
    ...learningRate === undefined ? {} : { learningRate },
    ...batchSize === undefined ? {} : { batchSize },
    betas: [options.beta1, options.beta2],
  };
}

async function runAblation(options: AblateChoice): Promise<void> {
  const { ranks, modules, seeds, examples, testExamples, text, window, json, out } = options;
  const say = sayUnless(json);
  const own = await embedded();
  const { data = own.train, test = own.test } = options;
  const trainSet = await chooseFrom(data, examples, STREAMS.train, options);
  const testSet = await chooseFrom(test, testExamples, STREAMS.test, options);
  const model = options.model === undefined ? own.model : await modelFolder(options.model);
  const perplexityIds = text === undefined
    ? undefined
    : (await loadTokenizer(model)).encode((await readText(text)).text);
  using device = await openDevice();
  say(`${device.adapter.name} (${device.adapter.type})`);
  say(
    `${model}: ${seeds} seeds of each of ${ranks.length} ranks on ${modules.length} sets of modules; ` +
      `${grouped(trainSet.chosen.length)} of ${grouped(trainSet.of)} examples to train on, ` +
      `${grouped(testSet.chosen.length)} of ${grouped(testSet.of)} to test`,
  );
  using bar = new AblationBar(json);
  const found = await ablate(device, {
    model,
    ...quantizationOf(options),
    ranks,
    modules,
    seeds,
    train: trainSet.chosen,
    test: testSet.chosen,
    perplexityIds,
    window,
    alphaPerRank: options.alphaPerRank,
    dropout: options.dropout,
    useRslora: options.rslora,
    training: trainingOf(options),
    outDir: out,
    onProgress: bar.update,
    onRun: ({ accuracy }) => bar.finished(accuracy),
  });
  bar.stop();
  if (json) return printJson(found);
  if (found.resumed > 0) printLine(`${found.resumed} runs were finished already, in ${out}`);
  showResult(found);
}

const command: Command = defineCommand({
  name: "ablate",
  summary: "Compare ranks and target modules over several seeds, in a table with error bars",
  examples: [
    [
      'nibble ablate --ranks 1,2,4,8 --modules "q_proj;q_proj,v_proj;all" --seeds 2',
      "on the embedded model and task",
    ],
    [
      "nibble ablate --quantize fp4 --ranks 8 --modules all --seeds 5",
      "another 4-bit type, beside the default, which is NF4 with double quantization",
    ],
    [
      "nibble ablate --model ./SmolLM2-135M --quantize nf4 --data train.jsonl --test test.jsonl --steps 200",
      "your own model and task",
    ],
  ],
  options: OPTIONS,
  check({ data, test, text }, check) {
    if ((data === undefined) !== (test === undefined)) {
      check.fault(
        "found only one of --data and --test, wanted both, or neither for the embedded task",
      );
    }
    if (text === undefined && check.said("window")) {
      check.fault("--window cuts the text of --text into windows; leave it out without one");
    }
  },
  run: runAblation,
});
export default command;
