/** The options of `nibble quantize` that say what becomes of the numbers that layers read. */
import { z } from "zod";
import { IntegerTensor } from "../kernels/quant/integer.ts";
import { lastNames, matchTargets } from "../train/adapters/targets.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { type LinearLayer, QuantizedLinear } from "../train/nn/linear.ts";
import type { ActivationRanges, LayerRange } from "../train/quant/activation_ranges.ts";
import { medianChannel, OVERBEARING, timesMedian } from "../train/quant/input_errors.ts";
import { type ActivationMode, quantizeActivations } from "../train/quant/quantize_activations.ts";
import { loadRanges } from "../train/quant/range_file.ts";
import { rotateLayers } from "../train/quant/rotate_layers.ts";
import type { OptionCheck } from "./option_check.ts";
import { type ChoiceOf, textList } from "./options.ts";
import { printError } from "./print.ts";
import { progress } from "./progress.ts";
import { calibrationText, type MethodChoice } from "./quantize_method.ts";
import { isRanged, type RangeChoice } from "./quantize_range.ts";

const GROUP = "Activations";

/** How layers' inputs are rounded, and of which layers. */
export const INPUT_OPTIONS = {
  activations: z.enum(["dynamic", "static", "rotated"]).optional().meta({
    description:
      "round what layers read to 8 bits too (with int8 or int4): each token by its own " +
      "range; all by one that is found on a text; or so once they were smoothed and turned, with the " +
      "largest channels in 16 bits",
    group: GROUP,
  }),
  smooth: z.number().min(0).max(1).optional().meta({
    description: "first move outliers into the weights (SmoothQuant) with this alpha; 0.5 is usual",
    placeholder: "ALPHA",
    group: GROUP,
  }),
  ranges: z.string().min(1).optional().meta({
    description: "what quantize calibrate --out wrote, instead of looking at a text",
    placeholder: "FILE",
    group: GROUP,
  }),
  keepActivations: textList().optional().meta({
    description: "layers whose inputs are not rounded, by the end of their names",
    placeholder: "NAMES",
    group: GROUP,
  }),
  dynamicActivations: textList().optional().meta({
    description: "layers whose inputs are dynamic where the others' are static",
    placeholder: "NAMES",
    group: GROUP,
  }),
};

/** What `INPUT_OPTIONS` give, beside the options that they must fit. */
export type InputChoice =
  & ChoiceOf<typeof INPUT_OPTIONS>
  & MethodChoice
  & Pick<RangeChoice, "range" | "per">;

/** Whether a text is read for the ranges of inputs. */
export function readsText({ activations, smooth, ranges }: InputChoice): boolean {
  if (ranges !== undefined) return false;
  return activations === "static" || activations === "rotated" || smooth !== undefined;
}

/** What puts weights into integers before inputs are looked at, in words; null if inputs come first. */
function earlierOf(choice: InputChoice): string | null {
  if (choice.policy !== undefined) return "the policy";
  if (choice.method !== "round") return choice.method;
  return isRanged(choice) ? "--range or --per" : null;
}

/** The keys of `INPUT_OPTIONS`. */
type InputKey = keyof typeof INPUT_OPTIONS;

/** Notes what does not go together. */
export function checkInputs(choice: InputChoice, check: OptionCheck<InputKey>): void {
  const { activations, quantize, policy, smooth, ranges, dynamicActivations } = choice;
  if (activations === undefined) {
    const keys = Object.keys(INPUT_OPTIONS) as InputKey[];
    return check.refuseSaid(keys, "wanted --activations with it");
  }
  if (policy === undefined && quantize !== "int8" && quantize !== "int4") {
    check.refuse("activations", `wanted --quantize int8 or int4 with it, found ${quantize}`);
  }
  if (smooth !== undefined && ranges !== undefined) {
    check.refuse("smooth", "the ranges have factors of their own if they were found with some");
  }
  const earlier = earlierOf(choice);
  if (smooth !== undefined && earlier) {
    check.refuse("smooth", `${earlier} chooses integers before: leave one of them out`);
  }
  if (activations === "rotated") {
    check.refuseSaid(
      ["ranges", "keepActivations", "dynamicActivations"],
      "all are static once they are turned: leave it out",
    );
    if (earlier) check.refuse("activations", `${earlier} chooses integers before: not rotated`);
  }
  if (dynamicActivations && activations === "dynamic") {
    check.refuse("dynamicActivations", "all are: wanted --activations static with it");
  }
}

/** The ranges of `--ranges`, if it was said. Throws if they do not fit, before anything is computed. */
export async function rangesOf(choice: InputChoice): Promise<ActivationRanges | undefined> {
  const { ranges: path, activations } = choice;
  if (path === undefined) return undefined;
  const ranges = await loadRanges(path);
  const earlier = earlierOf(choice);
  if (ranges.smoothing && earlier) {
    throw new RangeError(
      `Cannot take the ranges "${path}": they are of inputs that SmoothQuant has smoothed, and ${earlier} chooses integers ` +
        "before; calibrate without --smooth",
    );
  }
  if (!ranges.smoothing && activations === "dynamic") {
    throw new RangeError(
      `Cannot take anything from the ranges "${path}": dynamic inputs have a range for each token, and it has no factors of ` +
        "SmoothQuant; leave --ranges out, or calibrate with --smooth",
    );
  }
  return ranges;
}

/** Rounds the inputs of a model's layers, and their weights if they are plain. True if channels were scaled. */
export async function quantizeInputs(
  model: LanguageModel,
  choice: InputChoice,
  ranges: ActivationRanges | undefined,
  json: boolean,
): Promise<boolean> {
  const { activations } = choice;
  if (activations !== "rotated") {
    return await roundInputs(model, { ...choice, activations }, ranges);
  }
  const { smooth, keep, blockSize: groupSize } = choice;
  const text = await calibrationText(model, choice, "with static activations");
  using bar = progress({ total: [...model.linearLayers()].length, label: "Turning", json });
  const onProgress = (done: number) => bar.update(done);
  const weights = choice.quantize as "int8" | "int4";
  (await rotateLayers(model, { text, weights, groupSize, smooth, keep, onProgress })).commit();
  return false;
}

const isInteger = (layer: LinearLayer) =>
  layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor;

/** Rounds them as they are. */
async function roundInputs(
  model: LanguageModel,
  choice: InputChoice & { readonly activations?: ActivationMode },
  ranges: ActivationRanges | undefined,
): Promise<boolean> {
  const { quantize, blockSize: groupSize, smooth, activations } = choice;
  const isKept = earlierOf(choice) !== null;
  const layers = [...model.linearLayers()];
  const paths = layers.map(([path]) => path);
  // A policy may leave layers in what has no products of whole numbers.
  const others = layers.flatMap(([path, layer]) => isKept && !isInteger(layer) ? [path] : []);
  if (others.length === paths.length) {
    throw new RangeError(
      "Cannot round activations: the policy has no layer in integers, wanted some in int8 or int4",
    );
  }
  const named = (names: readonly string[] | undefined, mode: ActivationMode) =>
    names ? matchTargets(paths, names).map((path) => [path, mode] as const) : [];
  const [dynamic, kept] = [
    named(choice.dynamicActivations, "dynamic"),
    named(choice.keepActivations, "none"),
  ];
  const [twice] = dynamic.find(([path]) => kept.some(([own]) => own === path)) ?? [];
  if (twice !== undefined) {
    throw new RangeError(
      `Cannot choose layers: --dynamic-activations and --keep-activations both name "${twice}"; leave it out of one`,
    );
  }
  const modes = new Map([
    ...dynamic,
    ...kept,
    ...others.map((path) => [path, "none"] as const),
  ]);
  const calibration = readsText(choice)
    ? await calibrationText(model, choice, "with static activations")
    : undefined;
  const made = await quantizeActivations(model, {
    weights: isKept ? "keep" : quantize as "int8" | "int4",
    groupSize,
    activations: (path) => modes.get(path) ?? activations!,
    ...{ ranges, calibration, smooth },
  });
  made.commit();
  const fixed = paths.filter((path) => (modes.get(path) ?? activations) === "static");
  if (made.ranges) warnOfOutliers(made.ranges, fixed);
  return made.ranges?.smoothing !== undefined && made.ranges?.smoothing !== null;
}

/** Whether an outlier takes the range of a layer's input from all else. */
function isOverborne({ channels, range }: LayerRange): boolean {
  const median = channels[medianChannel(channels)];
  return timesMedian(Math.max(-range.low, range.high), median) >= OVERBEARING;
}

/** Says in which layers with static inputs an outlier leaves few steps to all else. */
function warnOfOutliers({ layers, smoothing }: ActivationRanges, fixed: readonly string[]): void {
  const hit = fixed.filter((path) => isOverborne(layers.get(path)!));
  if (hit.length === 0) return;
  const kinds = lastNames(hit).join();
  printError(
    `Warning: in ${hit.length} of ${fixed.length} layers with static inputs (${kinds}) an outlier takes the range from all ` +
      `others: --dynamic-activations ${kinds} gives each token its own${
        smoothing ? "" : ", --smooth 0.5 moves outliers into the weights"
      }, --activations rotated spreads them`,
  );
}

/** What was done to inputs, in words; "" where nothing was. */
export function showInputs({ activations, smooth }: InputChoice): string {
  if (activations === undefined) return "";
  return `, inputs in 8 bits, ${activations}${
    smooth === undefined ? "" : `, smoothed with ${smooth}`
  }`;
}
