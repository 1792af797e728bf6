/** The options of `nibble quantize` that say how integers are chosen, and what they are chosen on. */
import { z } from "zod";
import { readText } from "../train/data/dataset.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { awqLayers } from "../train/quant/awq.ts";
import type { CalibrationText } from "../train/quant/calibration.ts";
import { gptqLayers } from "../train/quant/gptq_layers.ts";
import { splitLayers } from "../train/quant/outlier_layers.ts";
import { quantizeLayers, type UniformScheme } from "../train/quant/weight_only.ts";
import { embedded } from "./embedded.ts";
import { tokenizerOf, WEIGHT_TYPES } from "./model_options.ts";
import type { OptionCheck } from "./option_check.ts";
import type { ChoiceOf } from "./options.ts";
import { percent, printError } from "./print.ts";
import { progress } from "./progress.ts";

const GROUP = "Choosing integers";

/** Ways to choose integers. */
const METHODS = ["round", "gptq", "awq", "hqq", "split"] as const;

/** Tokens that are read of a text to calibrate on, where nobody says how many. */
export const CALIBRATION_TOKENS = 8192;

/** The share of channels that a split keeps in 16 bits, where nobody says it. */
export const KEEP = 0.1;

/** How, and the text that a model is calibrated on. */
export const METHOD_OPTIONS = {
  method: z.enum(METHODS).default("round").meta({
    description:
      "round to nearest; look at a text: gptq for integers, awq for those of 4 bits and fewer; search zero points for those: " +
      "hqq; or leave the channels that are largest on a text in 16 bits: split, for all types",
    group: GROUP,
  }),
  keep: z.number().gt(0).lt(1).optional().meta({
    description:
      `the share of input channels that stay in 16 bits: with split ${KEEP}, with --activations rotated 0.01`,
    group: GROUP,
  }),
  calibration: z.string().min(1).optional().meta({
    description:
      "the text (with --method or --activations); by default definitions that come with nibble",
    placeholder: "FILE",
    group: GROUP,
  }),
  calibrationTokens: z.int().min(2).default(CALIBRATION_TOKENS)
    .meta({ description: "how many tokens of it are read at most", group: GROUP }),
};

/** What `METHOD_OPTIONS` give, and what that must fit. */
export interface MethodChoice extends ChoiceOf<typeof METHOD_OPTIONS> {
  readonly quantize: (typeof WEIGHT_TYPES)[number];
  readonly doubleQuant: boolean;
  readonly policy?: string;
  readonly blockSize?: number;
  readonly activations?: string;
}

/** The types that each method gives. */
const FITTING: Readonly<Record<MethodChoice["method"], readonly string[]>> = {
  round: WEIGHT_TYPES,
  gptq: ["int8", "int4", "int3", "int2"],
  awq: ["int4", "int3", "int2"],
  hqq: ["int4", "int3", "int2"],
  split: WEIGHT_TYPES,
};

/** Notes what does not go together; `needsText` if a text is read anyway. */
export function checkMethod(
  choice: MethodChoice,
  needsText: boolean,
  check: OptionCheck<keyof MethodChoice>,
): void {
  const { method, quantize, doubleQuant, policy, activations } = choice;
  if (method !== "split" && activations !== "rotated") {
    check.refuseSaid(["keep"], "wanted --method split or --activations rotated with it");
  }
  if ((method === "round" || method === "hqq") && !needsText) {
    check.refuseSaid(
      ["calibration", "calibrationTokens"],
      "wanted --method gptq, awq or split with it, or --activations static without --ranges",
    );
  }
  if (method === "round") return;
  if (policy !== undefined) return check.refuse("method", "leave it out with --policy");
  if (method === "split" && activations !== undefined) {
    check.refuse("method", "split multiplies in floats: leave --activations out");
  }
  if (doubleQuant && quantize.startsWith("int")) {
    check.refuse("doubleQuant", `${quantize} has no scales to quantize again`);
  }
  const fitting = FITTING[method];
  if (!fitting.includes(quantize)) {
    check.refuse(
      "method",
      `${method} gives ${fitting.slice(0, -1).join(", ")} or ${
        fitting.at(-1)
      }: wanted --quantize with it, found ${quantize}`,
    );
  }
}

/** How integers were chosen, in words; "" for rounding to nearest. */
export function showMethod({ method, keep = KEEP }: MethodChoice): string {
  if (method === "round") return "";
  return method === "split"
    ? `, ${percent(keep)} of the channels in 16 bits,`
    : ` by ${method.toUpperCase()}`;
}

/** The text that a model is calibrated on; `what` says what for. */
export async function calibrationText(
  model: LanguageModel,
  { calibration, calibrationTokens }: MethodChoice,
  what: string,
): Promise<CalibrationText> {
  const tokenizer = tokenizerOf(model, `quantize ${what}`);
  const read = calibration ?? (await embedded()).heldout;
  if (calibration === undefined) printError(DEFAULT_TEXT);
  return { ids: tokenizer.encode((await readText(read)).text).subarray(0, calibrationTokens) };
}

/** What is said where a model is calibrated on a text that nobody chose. */
const DEFAULT_TEXT =
  "Warning: calibrated on definitions that come with nibble; pass --calibration, a text like those that the model will read";

/** Quantizes the linear layers of a model with plain weights, in place, by another method than rounding to nearest. */
export async function quantizeByMethod(
  model: LanguageModel,
  choice: MethodChoice,
  json: boolean,
): Promise<void> {
  const { method, quantize, blockSize: groupSize } = choice;
  const bits = Number(quantize.slice(3)) as 4 | 3 | 2;
  if (method === "hqq") {
    return (await quantizeLayers(model, { kind: "hqq", bits, groupSize })).commit();
  }
  const text = await calibrationText(model, choice, `by ${method}`);
  using bar = progress({ total: [...model.linearLayers()].length, label: "Quantizing", json });
  const onProgress = (done: number) => bar.update(done);
  const made = method === "gptq"
    ? await gptqLayers(model, { text, bits, groupSize, onProgress })
    : method === "awq"
    ? await awqLayers(model, { text, bits, groupSize })
    : await splitLayers(model, { text, share: choice.keep ?? KEEP, rest: restOf(choice) });
  made.commit();
}

/** What a split gives the channels that it does not keep. */
function restOf({ quantize: kind, blockSize, doubleQuant }: MethodChoice): UniformScheme {
  return kind === "nf4" || kind === "fp4"
    ? { kind, blockSize, doubleQuant }
    : { kind, groupSize: blockSize };
}
