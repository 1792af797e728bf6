/**
 * The options of training, which `train` and `ablate` share.
 *
 * @module
 */
import { z } from "zod";
import type { OptionCheck } from "./option_check.ts";
import { textList } from "./options.ts";

const LORA = "LoRA";
const TRAINING = "Training";

/** Which adapter is trained. */
export const LORA_OPTIONS = {
  r: z.int().min(1).default(8)
    .meta({ description: "rank", group: LORA, aka: ["rank", "lora-r"] }),
  alpha: z.number().positive().default(16)
    .meta({
      description: "scale: alpha / r times what the adapter computes; usual are r and 2 r",
      group: LORA,
      aka: ["lora-alpha"],
    }),
  dropout: z.number().min(0).max(0.99).default(0)
    .meta({
      description: "share of the adapter's inputs set to 0",
      group: LORA,
      aka: ["lora-dropout"],
    }),
  targetModules: textList().default(["all"]).meta({
    description: 'layers that get an adapter, by the end of their names, or "all"',
    placeholder: "NAMES",
    group: LORA,
    aka: ["modules"],
  }),
  rslora: z.boolean().default(false)
    .meta({
      description: "scale by alpha / √r (arXiv 2312.03732)",
      group: LORA,
      aka: ["use-rslora"],
    }),
  dora: z.boolean().default(false)
    .meta({
      description: "train the norms of rows apart (arXiv 2402.09353)",
      group: LORA,
      aka: ["use-dora"],
    }),
};

/** How long and how fast. */
export const TRAINING_OPTIONS = {
  steps: z.int().min(1).optional().meta({
    description: "optimizer steps",
    group: TRAINING,
    aka: ["max-steps"],
  }),
  epochs: z.int().min(1).optional()
    .meta({
      description: "passes over the data, if --steps is not given; 1",
      group: TRAINING,
      aka: ["num-train-epochs"],
    }),
  batchSize: z.int().min(1).default(8)
    .meta({
      description: "rows of a batch; short sequences share a row",
      group: TRAINING,
      aka: ["per-device-train-batch-size"],
    }),
  length: z.int().min(2).optional()
    .meta({
      description: "tokens of a row; as many as the longest sequence, 256 at least",
      group: TRAINING,
      aka: ["max-length", "max-seq-length"],
    }),
  accumulation: z.int().min(1).default(1)
    .meta({
      description: "batches of a step",
      group: TRAINING,
      aka: ["gradient-accumulation-steps"],
    }),
  learningRate: z.number().positive().default(2e-4)
    .meta({
      description:
        "the largest learning rate; usual are 1e-5 to 5e-5 with --full, 1e-4 to 3e-4 for an adapter, " +
        "2e-4 to 5e-4 for one on 4 bits",
      group: TRAINING,
      aka: ["lr"],
    }),
  schedule: z.enum(["cosine", "linear", "constant"]).default("cosine")
    .meta({ description: "how it falls", group: TRAINING, aka: ["lr-scheduler-type"] }),
  warmup: z.int().min(0).default(0)
    .meta({
      description: "steps in which it rises from 0",
      group: TRAINING,
      aka: ["warmup-steps"],
    }),
  beta1: z.number().min(0).max(0.9999).default(0.9)
    .meta({ description: "AdamW's decay of the mean gradient", group: TRAINING }),
  beta2: z.number().min(0).max(0.99999).default(0.999)
    .meta({ description: "AdamW's decay of the mean square", group: TRAINING }),
  weightDecay: z.number().min(0).default(0)
    .meta({ description: "AdamW's decay of the weights; 0.01 is usual", group: TRAINING }),
  maxGradNorm: z.number().min(0).default(1)
    .meta({
      description: "gradients are clipped to this norm; 0 for no clipping",
      group: TRAINING,
    }),
  seed: z.int().min(0).default(0)
    .meta({ description: "of the order, of the adapter, and of dropout", group: TRAINING }),
};

/** Options of `train` by which others are of no use. */
export interface UseChoice {
  readonly full: boolean;
  readonly init: boolean;
  readonly qat?: string;
  readonly adapter?: string;
  readonly checkpoint?: string;
  readonly text?: string;
}

/** Options that one of `UseChoice` may leave without a use. */
export type UsedKey =
  | keyof typeof LORA_OPTIONS
  | ("dtype" | "checkpointEvery" | "promptField" | "answerField")
  | ("doubleQuant" | "blockSize" | "dequantize" | "weights");

/** Notes what was said and would do nothing. */
export function checkUse(choice: UseChoice, check: OptionCheck<UsedKey>): void {
  const { full, init, qat, adapter, checkpoint, text } = choice;
  const ofLora = check.firstSaid(Object.keys(LORA_OPTIONS) as (keyof typeof LORA_OPTIONS)[]);
  if (ofLora && full) {
    check.fault(`${ofLora} is of an adapter, and --full trains without: leave it out`);
  }
  if (ofLora && adapter !== undefined) {
    check.fault(
      `${ofLora} is of a new adapter, and --adapter goes on with one that has its own: leave one of them out`,
    );
  }
  if (!full && !qat && check.said("dtype")) {
    check.fault(
      "--dtype is of the weights that --full or --qat saves, and an adapter is in f32: leave it out",
    );
  }
  if (checkpoint === undefined && check.said("checkpointEvery")) {
    check.fault("--checkpoint-every says how often --checkpoint is written: add that");
  }
  const ofData = check.firstSaid(["promptField", "answerField"]);
  if (ofData && text !== undefined) {
    check.fault(`${ofData} names a key of --data: leave it out with --text`);
  }
  const ofWeights = check.firstSaid(["doubleQuant", "blockSize", "dequantize", "weights"]);
  if (ofWeights && init) {
    check.fault(`${ofWeights} is of weights that are loaded, and --init draws them: leave it out`);
  }
}

/** The modules that the user named: "all" stands for every linear layer. */
export function targetsOf(names: readonly string[]): readonly string[] | string {
  return names.length === 1 && (names[0] === "all" || names[0] === "all-linear")
    ? "all-linear"
    : names;
}
