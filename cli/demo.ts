/** `nibble demo`: the main job on the embedded model, measured as it runs. */
import { z } from "zod";
import { type Device, openDevice } from "../core/device.ts";
import { addLora, type Lora } from "../train/adapters/lora.ts";
import { saveAdapter } from "../train/adapters/peft.ts";
import { type Example, readJsonl, readText, tokenizeExamples } from "../train/data/dataset.ts";
import { type Accuracy, evaluateAccuracy } from "../train/eval/accuracy.ts";
import { majorityBaseline, naiveBayesBaseline } from "../train/eval/baselines.ts";
import { generate } from "../train/eval/generate.ts";
import { evaluatePerplexity } from "../train/eval/perplexity.ts";
import { writeWhole } from "../train/files/output.ts";
import { Trainer, type TrainOptions } from "../train/loop.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel, type LoadOptions } from "../train/models/load.ts";
import { type Command, defineCommand } from "./command.ts";
import { choose, type Embedded, embedded } from "./embedded.ts";
import { LateBar } from "./late_bar.ts";
import { jsonFile } from "./options.ts";
import { checkOut, checkOutFile } from "./out_folder.ts";
import { bytes, duration, grouped, paint, percent, printLine, table } from "./print.ts";
import { progress } from "./progress.ts";

/** What is trained, and on how much. */
interface Recipe {
  /** Examples to learn from, at most. */
  readonly examples: number;
  /** Examples to be asked about, at most. */
  readonly testExamples: number;
  /** Tokens of held-out text. */
  readonly heldout: number;
  readonly lora: { readonly r: number; readonly alpha: number };
  readonly training: TrainOptions;
}

/** Found by trying, on the base model in assets/: see assets/README.md. */
const RECIPES: Readonly<Record<"quick" | "full", Recipe>> = {
  quick: {
    examples: 2300,
    testExamples: 1200,
    heldout: 8192,
    lora: { r: 8, alpha: 16 },
    training: { epochs: 1, batchSize: 1, length: 256, learningRate: 3e-3 },
  },
  full: {
    examples: Infinity,
    testExamples: Infinity,
    heldout: Infinity,
    lora: { r: 64, alpha: 64 },
    training: { epochs: 4, batchSize: 4, length: 256, learningRate: 1e-3, warmup: 100 },
  },
};

/** Examples that are shown. */
const SHOWN = 3;

/** Streams of the seed: which examples are chosen. */
const STREAMS = { train: 0x64656d01, test: 0x64656d02 };

const SCHEMES = [
  ["f32", "f32", { weights: "f32" }],
  ["nf4", "NF4", { quantize: "nf4", weights: "f32" }],
  ["nf4dq", "NF4, double quantization", { quantize: "nf4", doubleQuant: true, weights: "f32" }],
] as const satisfies readonly (readonly [string, string, LoadOptions])[];

type Scheme = typeof SCHEMES[number][0];

/** What the demo measured; `--json` writes it. */
interface DemoResult {
  adapter: string;
  seconds: number;
  perplexity: Record<Scheme, number>;
  bytes: Record<Scheme, number>;
  accuracy: { before: number; after: number; majority: number; naiveBayes: number };
  tokensPerSecond: number;
  peakBytes: number;
}

function heading(text: string): void {
  printLine();
  printLine(paint("bold", text));
}

/** Loads the base in each scheme and measures it; the last one, in the fewest bits, is kept. */
async function measureBase(
  device: Device,
  files: Embedded,
  most: number,
): Promise<{ model: LanguageModel } & Pick<DemoResult, "perplexity" | "bytes">> {
  const found = { perplexity: {}, bytes: {} } as Pick<DemoResult, "perplexity" | "bytes">;
  const rows: string[][] = [];
  let model: LanguageModel | null = null;
  let ids: Int32Array | null = null;
  using bar = progress({ total: SCHEMES.length, label: "Measuring the base model" });
  for (const [i, [key, name, options]] of SCHEMES.entries()) {
    model?.dispose();
    model = await loadModel(device, files.model, options);
    ids ??= model.tokenizer!.encode((await readText(files.heldout)).text).subarray(0, most);
    const { perplexity } = await evaluatePerplexity(model, ids);
    found.perplexity[key] = perplexity;
    found.bytes[key] = model.weightBytes;
    rows.push([name, bytes(model.weightBytes), perplexity.toFixed(2)]);
    bar.update(i + 1);
  }
  bar.stop();
  printLine(table(["weights", "size", "perplexity"], rows, { right: [1, 2] }));
  printLine(paint(
    "dim",
    `on ${grouped(ids!.length)} tokens of held-out text; embeddings stay in f32`,
  ));
  return { model: model!, ...found };
}

async function measureAccuracy(
  model: LanguageModel,
  test: readonly Example[],
  label: string,
): Promise<Accuracy> {
  const sequences = tokenizeExamples(model.tokenizer!, test);
  using bar = new LateBar({ label });
  return await evaluateAccuracy(model, sequences, { onProgress: bar.update });
}

async function fineTune(
  model: LanguageModel,
  examples: readonly Example[],
  options: TrainOptions,
): Promise<number> {
  using trainer = new Trainer(model, examples, options);
  using bar = progress({ total: trainer.steps, label: "Fine-tuning" });
  let tokensPerSecond = 0;
  for await (const told of trainer.run()) {
    tokensPerSecond = told.tokensPerSecond;
    bar.update(told.step, { loss: told.loss, tokensPerSecond: tokensPerSecond || undefined });
  }
  return tokensPerSecond;
}

/** The first line of an answer, short enough for a table. */
function firstLine(text: string): string {
  const line = text.trim().split("\n")[0];
  return line.length > 28 ? `${line.slice(0, 27)}…` : line;
}

function definitionOf({ prompt }: Example): string {
  const line = prompt.split("\n")[0];
  return line.length > 58 ? `${line.slice(0, 57)}…` : line;
}

function printAccuracy({ before, after, majority, naiveBayes }: DemoResult["accuracy"]): void {
  printLine(table(["", "accuracy"], [
    ["base model", percent(before)],
    ["majority class", percent(majority)],
    ["naive Bayes on the same examples", percent(naiveBayes)],
    [paint("bold", "fine-tuned model"), paint("bold", percent(after))],
  ], { right: [1] }));
}

function printAdapter(lora: Lora, model: LanguageModel): void {
  const { total, trainable } = model.count();
  const { r, alpha } = lora.options;
  printLine(
    `LoRA with r = ${r} and alpha = ${alpha} on ${lora.branches.size} linear layers: ` +
      `${grouped(trainable)} of ${grouped(total)} parameters ` +
      `are trained (${percent(trainable / total)})`,
  );
}

/** A path as a shell takes it. */
function shellWord(path: string): string {
  return /^[\w./:@-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

interface DemoChoice {
  readonly recipe: "quick" | "full";
  readonly seed: number;
  readonly out: string;
  readonly json?: string;
}

async function runDemo({ recipe: name, seed, out, json }: DemoChoice): Promise<void> {
  await checkOut(out, "adapter");
  await checkOutFile(json, "--json");
  const recipe = RECIPES[name];
  const start = performance.now();
  using device = await openDevice();
  const { name: adapter, type } = device.adapter;
  printLine(`${paint("bold", "Adapter:")} ${adapter} (${type})`);
  const files = await embedded();

  heading("The base model, in three precisions");
  const { model, perplexity, bytes: sizes } = await measureBase(device, files, recipe.heldout);

  heading("The task: from a definition, name the category");
  const all = await readJsonl(files.train);
  const train = choose(all, recipe.examples, seed, STREAMS.train);
  const test = choose(await readJsonl(files.test), recipe.testExamples, 0, STREAMS.test);
  printLine(
    `${grouped(train.length)} examples to learn from, ` +
      `${grouped(test.length)} unseen ones to be asked about`,
  );
  const shown = test.slice(0, SHOWN);
  const prompts = shown.map(({ prompt }) => prompt);
  const lora = addLora(model, { ...recipe.lora, seed });
  printAdapter(lora, model);
  const before = await measureAccuracy(model, test, "Asking the base model, answer tokens");
  const answersBefore = await generate(model, prompts, { maxNewTokens: 8 });

  heading("Fine-tuning the adapter on the 4-bit model");
  const tokensPerSecond = await fineTune(model, train, { ...recipe.training, seed });
  const after = await measureAccuracy(model, test, "Asking the fine-tuned model, answer tokens");
  const answersAfter = await generate(model, prompts, { maxNewTokens: 8 });

  heading("Accuracy on unseen examples");
  const accuracy = {
    before: before.accuracy,
    after: after.accuracy,
    majority: majorityBaseline(train, test),
    naiveBayes: naiveBayesBaseline(train, test),
  };
  printAccuracy(accuracy);
  printLine(table(
    ["definition", "category", "before", "after"],
    shown.map((example, i) => [
      definitionOf(example),
      example.answer.trim(),
      firstLine(answersBefore[i]),
      firstLine(answersAfter[i]),
    ]),
  ));

  await saveAdapter(lora, out, { baseModel: files.model });
  const seconds = (performance.now() - start) / 1000;
  const { peak } = device.memory;
  if (json !== undefined) {
    const result: DemoResult = {
      adapter,
      seconds,
      perplexity,
      bytes: sizes,
      accuracy,
      tokensPerSecond,
      peakBytes: peak,
    };
    await writeWhole(json, `${JSON.stringify(result, null, 2)}\n`);
  }
  heading(`Done in ${duration(seconds)}`);
  printLine(
    `${grouped(Math.round(tokensPerSecond))} tokens/s in training, at most ${
      bytes(peak)
    } of GPU memory`,
  );
  printLine(`The adapter is a PEFT folder: ${out}. Ask it with`);
  printLine(
    `  deno task nibble generate --model ${
      shellWord(files.model)
    } --quantize nf4 --double-quant \\\n` +
      `    --adapter ${shellWord(out)} $'a large wild cat with stripes\\nCategory:'`,
  );
}

const demo: Command = defineCommand({
  name: "demo",
  summary: "Quantize the embedded model to NF4, fine-tune a LoRA on it, and measure both",
  examples: [
    ["nibble demo", "two minutes at most without a GPU, seconds with one"],
    ["nibble demo --json demo.json", "the figures as a file too"],
    ["nibble demo --recipe full", "all examples, four times: a minute on a GPU"],
  ],
  options: z.strictObject({
    recipe: z.enum(["quick", "full"]).default("quick").meta({
      description: "quick: 2,300 examples, r 8; full: all 39,249 examples four times, r 64",
    }),
    seed: z.int().min(0).default(0)
      .meta({ description: "of the choice and order of examples, and of the adapter" }),
    out: z.string().min(1).default("nibble-adapter")
      .meta({ description: "where the adapter goes", placeholder: "FOLDER" }),
    json: jsonFile(),
  }),
  run: runDemo,
});
export default demo;
