/**
 * Quantization-aware training from the command line: options of `nibble train`, and what is saved.
 *
 * @module
 */
import { z } from "zod";
import { INTEGER_RANGES } from "../kernels/quant/integer_range.ts";
import { matchTargets } from "../train/adapters/targets.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { saveModel, type SaveModelOptions } from "../train/models/save.ts";
import { convertQat } from "../train/quant/qat_convert.ts";
import type { QatOptions } from "../train/quant/qat_options.ts";
import { prepareQat } from "../train/quant/qat.ts";
import type { OptionCheck } from "./option_check.ts";
import { type ChoiceOf, textList } from "./options.ts";

const GROUP = "Quantization-aware training";

/** How weights and activations are rounded. */
export const QAT_OPTIONS = {
  qat: z.enum(["int8", "int4", "int3", "int2"]).optional().meta({
    description:
      "train with the linear layers' weights rounded to this type; the rounded model is saved, adapter included",
    group: GROUP,
  }),
  qatGroup: z.int().min(1).optional().meta({
    description:
      "weights along a row that share a step; 64, for int8 a row. The last ones of a row may be fewer",
    group: GROUP,
  }),
  qatPer: z.enum(["channel", "tensor"]).optional().meta({
    description: "a step for each row, or one for a layer, instead of groups",
    group: GROUP,
  }),
  qatKind: z.enum(INTEGER_RANGES).optional().meta({
    description:
      "of weights: absmax over the largest whole number, over half of all, or with a zero point, " +
      "which is learnt where steps are; asymmetric, for int8 and learnt steps symmetric",
    group: GROUP,
  }),
  qatStep: z.enum(["range", "learnt"]).default("range").meta({
    description: "steps follow from the weights' range, or are learnt (LSQ)",
    group: GROUP,
  }),
  qatKeep: textList().optional().meta({
    description: "layers that are not rounded, by the end of their names",
    placeholder: "NAMES",
    group: GROUP,
  }),
  qatActivations: z.enum(["int8", "int4"]).optional()
    .meta({ description: "round the layers' inputs too", group: GROUP }),
  qatRange: z.enum(["observed", "learnt", "token"]).default("observed").meta({
    description: "of inputs: observed in the first steps, learnt from there, or each token's own",
    group: GROUP,
  }),
  qatObserve: z.int().min(1).optional().meta({
    description:
      "steps in which ranges of inputs are observed; 20, or none where the model's folder has them",
    group: GROUP,
  }),
};

/** What `QAT_OPTIONS` give. */
export type QatChoice = ChoiceOf<typeof QAT_OPTIONS>;

/** The options that say how `--qat` rounds. */
type QatKey = keyof typeof QAT_OPTIONS;

/** Notes what does not go together. */
export function checkQat(
  choice: QatChoice & {
    readonly quantize?: string;
    readonly dora: boolean;
    readonly dropout: number;
    readonly full: boolean;
  },
  check: OptionCheck<QatKey>,
): void {
  const { qat, qatGroup, qatPer, qatActivations, qatRange } = choice;
  if (!qat) {
    const first = check.firstSaid(Object.keys(QAT_OPTIONS) as QatKey[]);
    if (first) check.fault(`${first} says how --qat rounds: add that`);
    return;
  }
  if (qatGroup !== undefined && qatPer !== undefined) {
    check.fault(
      `--qat-group and --qat-per ${qatPer} both say who shares a step: leave one of them out`,
    );
  }
  const ofInputs = check.firstSaid(["qatRange", "qatObserve"]);
  if (!qatActivations && ofInputs) {
    check.fault(`${ofInputs} is of rounded inputs: add --qat-activations`);
  }
  if (qatRange === "token" && check.said("qatObserve")) {
    check.fault(
      "--qat-observe is of ranges that are observed, and --qat-range token observes none: leave one of them out",
    );
  }
  if (choice.quantize) {
    check.fault(
      "--qat rounds weights that are trained, and --quantize freezes them: leave one of them out",
    );
  }
  if (!choice.full && choice.dora) {
    check.fault(
      "--qat rounds weights with the adapter in them, which DoRA's cannot be: leave --dora out",
    );
  }
  if (!choice.full && choice.dropout > 0) {
    check.fault(
      "--qat rounds weights with the adapter in them, but --dropout works on inputs: leave it out",
    );
  }
}

/** Prepares the model as the options say. */
export async function prepareFor(model: LanguageModel, choice: QatChoice): Promise<void> {
  const { qat, qatGroup: groupSize, qatPer: share, qatKind: kind, qatStep: step } = choice;
  const { qatKeep, qatActivations, qatRange, qatObserve } = choice;
  const paths = [...model.linearLayers()].map(([path]) => path);
  const kept = new Set(qatKeep ? matchTargets(paths, qatKeep) : []);
  const weights = { bits: Number(qat!.slice(3)), groupSize, share, kind, step };
  const options: QatOptions = {
    weights: (path) => kept.has(path) ? null : weights,
    activations: qatActivations && {
      bits: Number(qatActivations.slice(3)),
      range: qatRange,
      observeSteps: qatObserve,
      // Who says how long to observe wants new ranges.
      ...qatObserve !== undefined && { ranges: new Map() },
    },
  };
  await prepareQat(model, options);
}

/** What is said where a run ends before ranges of inputs are observed: none of its steps rounds inputs. Null elsewhere. */
export function observeNote(
  { inputRoundings }: LanguageModel,
  { qatActivations, qatRange, qatObserve }: QatChoice,
  steps: number,
): string | null {
  if (!qatActivations || qatRange === "token") return null;
  if (qatObserve === undefined && inputRoundings.size > 0) return null;
  const observed = qatObserve ?? 20;
  if (steps > observed) return null;
  return `Warning: inputs are rounded in none of the ${steps} steps, as their ranges are observed in the first ${observed}; ` +
    "train for more, or pass a smaller --qat-observe";
}

/**
 * Converts the model, saves it, and says what is in the folder: a plain model with rounded weights, or whole numbers and ranges where
 * inputs are rounded too.
 */
export async function saveRounded(
  model: LanguageModel,
  out: string,
  dtype: SaveModelOptions["dtype"],
  { qat, qatActivations }: QatChoice,
): Promise<string> {
  await convertQat(model);
  const isPlain = qatActivations === undefined;
  await saveModel(model, out, { dequantize: isPlain, steps: isPlain, dtype });
  if (qatActivations) {
    return `It rounds weights to ${qat} and inputs to ${qatActivations} as in training; with --dequantize, train --qat goes on`;
  }
  return dtype === "bf16" && qat === "int8"
    ? `Its weights lie on ${qat}'s steps, as far as bf16 can tell those apart`
    : `--quantize ${qat} gives back its whole numbers`;
}
