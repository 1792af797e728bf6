/** `nibble quantize`: a model folder in few bits, as bitsandbytes and transformers, or compressed-tensors, read it. */
import { z } from "zod";
import { type Device, openDevice } from "../core/device.ts";
import { IntegerTensor } from "../kernels/quant/integer.ts";
import { isFourBit } from "../train/files/bitsandbytes.ts";
import { isGgufPath } from "../train/files/gguf.ts";
import { openCheckpoint, type TensorSource } from "../train/files/safetensors.ts";
import { openGgufModel } from "../train/models/gguf.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel } from "../train/models/load.ts";
import { saveModel, type SaveModelOptions } from "../train/models/save.ts";
import { QuantizedLinear } from "../train/nn/linear.ts";
import { type QuantizationPolicy, quantizeByPolicy, readPolicy } from "../train/quant/policy.ts";
import { type Command, defineCommand } from "./command.ts";
import { MODEL_OPTIONS, modelFolder, WEIGHT_TYPES } from "./model_options.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonSwitch } from "./options.ts";
import { checkOut } from "./out_folder.ts";
import { printJson, printLine } from "./print.ts";
import { measureErrors, printErrors, printSizes, sizeAfter, sizeBefore } from "./quantize_cost.ts";
import { checkExplain, EXPLAIN_OPTIONS, printExplanation } from "./quantize_explain.ts";
import {
  checkInputs,
  INPUT_OPTIONS,
  quantizeInputs,
  rangesOf,
  readsText,
  showInputs,
} from "./quantize_inputs.ts";
import { checkMethod, METHOD_OPTIONS, quantizeByMethod, showMethod } from "./quantize_method.ts";
import {
  checkRange,
  isRanged,
  quantizeInRange,
  RANGE_OPTIONS,
  showRange,
} from "./quantize_range.ts";
import { quantizedWeightOf } from "./weight_shapes.ts";

/** The tensors of a model folder, or of a GGUF file under Hugging Face's names. */
async function openSource(path: string): Promise<TensorSource> {
  return isGgufPath(path) ? (await openGgufModel(path)).source : await openCheckpoint(path);
}

/** The type that most of the model is in: what stays plain keeps it. */
function dtypeOf(source: TensorSource): NonNullable<SaveModelOptions["dtype"]> {
  const [largest] = [...source.entries.values()]
    .sort((a, b) => (b.end - b.begin) - (a.end - a.begin));
  return largest?.dtype === "BF16" ? "bf16" : largest?.dtype === "F16" ? "f16" : "f32";
}

/** Weights that share a scale: so many were asked for, or the model's folder has steps; null where that is a row. */
function blockOf(model: LanguageModel, type: string, asked: number | undefined): number | null {
  for (const [, layer] of model.linearLayers()) {
    if (!(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor)) continue;
    const { groups, groupSize } = layer.weight;
    return groups === 1 && type === "int8" ? null : groupSize;
  }
  return asked ?? (type === "int8" ? null : 64);
}

/** Throws if one of the tensors is quantized already. */
function checkPlain(
  source: TensorSource,
  folder: string,
  names: readonly string[] = [...source.entries.keys()],
): void {
  for (const name of names) {
    const weight = quantizedWeightOf(source, name);
    if (weight === null) continue;
    const found = isFourBit(source, weight) ? "in 4 bits" : "in integers";
    throw new TypeError(
      `Cannot quantize the model in "${folder}": "${weight}" is ${found} already, wanted plain weights; take the model that ` +
        "it was made from",
    );
  }
}

const { model, doubleQuant, blockSize } = MODEL_OPTIONS;

const OPTIONS = z.strictObject({
  model: model.optional(),
  out: z.string().min(1).optional().meta({
    description: "where to: a new or empty folder, or a model folder to replace",
    placeholder: "FOLDER",
  }),
  quantize: z.enum(WEIGHT_TYPES).default("nf4")
    .meta({ description: "the type of the linear layers' weights" }),
  doubleQuant: doubleQuant.meta({ description: "quantize the scales too" }),
  blockSize: blockSize.meta({ description: "weights that share a scale; 64, for int8 a row" }),
  policy: z.string().min(1).optional().meta({
    description: "a JSON file with rules for layers instead, as quantize sensitivity writes it",
    placeholder: "FILE",
  }),
  ...METHOD_OPTIONS,
  ...RANGE_OPTIONS,
  ...INPUT_OPTIONS,
  ...EXPLAIN_OPTIONS,
  json: jsonSwitch(),
});

type QuantizeChoice = z.output<typeof OPTIONS>;

type Key = keyof QuantizeChoice;

/** The options of `--explain`, and those of all else but the model and how it is told. */
const KEYS = Object.keys(OPTIONS.shape) as Key[];
const EXPLAINING = KEYS.filter((key) => key in EXPLAIN_OPTIONS);
const WRITING = KEYS.filter((key) =>
  !(key in EXPLAIN_OPTIONS) && key !== "model" && key !== "json"
);

function checkChoice(choice: QuantizeChoice, check: OptionCheck<Key>): void {
  if (choice.explain) return checkExplain(choice, WRITING, check);
  for (const key of ["model", "out"] as const) if (!check.said(key)) check.lacks(key);
  check.refuseSaid(EXPLAINING, "wanted --explain with it");
  checkMethod(choice, readsText(choice), check);
  checkInputs(choice, check);
  checkRange(choice, check);
  if (choice.policy !== undefined && check.firstSaid(["quantize", "doubleQuant", "blockSize"])) {
    check.refuse(
      "policy",
      "its rules say how layers are quantized: leave --quantize, --double-quant and --block-size out",
    );
  }
}

/** Shows the numbers on the way; nothing is written. */
async function explain(options: QuantizeChoice): Promise<void> {
  const { model, tensor, json } = options;
  const path = model === undefined ? null : await modelFolder(model);
  using source = path === null ? null : await openSource(path);
  if (source) checkPlain(source, path!, [tensor!]);
  await printExplanation(options, source, json);
}

/** A model as the options want it, in memory. */
interface Quantized {
  readonly model: LanguageModel;
  /** Whether channels were scaled before weights were rounded: they are not to be compared with those of the file. */
  readonly isScaled: boolean;
  /** What layers follow, if they follow rules. */
  readonly policy: QuantizationPolicy | null;
}

async function quantizeFolder(
  device: Device,
  folder: string,
  options: QuantizeChoice,
): Promise<Quantized> {
  const { quantize, doubleQuant, blockSize, method, activations, json } = options;
  const policy = options.policy === undefined ? null : await readPolicy(options.policy);
  const ranges = await rangesOf(options);
  // Loading rounds weights to nearest, in the ranges of their type; all else begins with plain ones.
  const isPlain = policy || method !== "round" || activations || isRanged(options);
  const model = await loadModel(
    device,
    folder,
    isPlain ? { dequantize: true, weights: "f32" } : { quantize, doubleQuant, blockSize },
  );
  if (policy) (await quantizeByPolicy(model, policy)).commit();
  else if (method !== "round") await quantizeByMethod(model, options, json);
  else if (isRanged(options)) await quantizeInRange(model, options);
  const isSmoothed = activations !== undefined &&
    await quantizeInputs(model, options, ranges, json);
  return { model, isScaled: method === "awq" || isSmoothed, policy };
}

/** How weights and inputs are written, in words. */
function describe(options: QuantizeChoice, block: number | null): string {
  const { policy, quantize, doubleQuant, per } = options;
  if (policy !== undefined) return `layers as ${policy} has them${showInputs(options)}`;
  const share = block ? `in blocks of ${block}` : per === "tensor" ? "by layers" : "by rows";
  const scales = doubleQuant ? ", scales in 8 bits" : "";
  return `${quantize}${showMethod(options)} ${share}${showRange(options)}${scales}${
    showInputs(options)
  }`;
}

/** What `--json` has of the options that were chosen. */
function chosen(
  options: QuantizeChoice,
  policy: QuantizationPolicy | null,
  block: number | null,
): Record<string, unknown> {
  const { quantize, method, doubleQuant, activations, keep } = options;
  return {
    ...policy ? { policy } : { quantize, method, doubleQuant, blockSize: block },
    ...isRanged(options) && { range: options.range ?? null, per: options.per ?? null },
    ...(method === "split" || activations === "rotated") && { keep },
    ...activations && { activations, smooth: options.smooth ?? null },
  };
}

async function write(options: QuantizeChoice): Promise<void> {
  const { json, quantize: type, blockSize } = options;
  const [name, out] = [options.model!, options.out!];
  await checkOut(out, "model", name);
  const folder = await modelFolder(name);
  using source = await openSource(folder);
  checkPlain(source, folder);
  using device = await openDevice();
  const { model, isScaled, policy } = await quantizeFolder(device, folder, options);
  const layers = isScaled ? [] : await measureErrors(model, source, json);
  const dtype = dtypeOf(source);
  const before = await sizeBefore(folder, source, model);
  await saveModel(model, out, { dtype });
  const after = await sizeAfter(out, model);
  const block = options.per ? blockSize ?? null : blockOf(model, type, blockSize);
  if (json) {
    const told = chosen(options, policy, block);
    return printJson({ model: name, out, ...told, dtype, before, after, layers });
  }
  printErrors(layers);
  printSizes(before, after);
  printLine(`Written to ${out}: ${describe(options, block)}, the rest in ${dtype}`);
}

const command: Command = defineCommand({
  name: "quantize",
  summary: "Write a model in 2 to 8 bits, and what that costs in accuracy; or explain the numbers",
  examples: [
    [
      "nibble quantize --model ./SmolLM2-135M --out ./SmolLM2-135M-nf4 --double-quant",
      "NF4 in 4.13 bits a weight; transformers reads it too",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./fp4 --quantize fp4 --json",
      "FP4, with the errors of each layer type for machines",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./int8 --quantize int8",
      "integers, in compressed-tensors' packed layout",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./tensor --quantize int8 --range asymmetric --per tensor",
      "one scale and zero point for a layer",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./mixed --policy mixed.json",
      "each layer as quantize sensitivity chose",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./awq --quantize int4 --method awq --calibration notes.txt",
      "INT4 that loses less, chosen by what the model makes of a text",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./w8a8 --quantize int8 --activations static --smooth 0.5 --keep-activations down_proj",
      "weights and activations in 8 bits: products are in whole numbers, here and in engines that read compressed-tensors",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./w8a8 --quantize int8 --activations rotated --calibration notes.txt",
      "static activations that lose little where some are far larger than others; nibble alone reads such a folder",
    ],
    [
      "nibble quantize --model ./SmolLM2-135M --out ./split --quantize int4 --method split --keep 0.05",
      "the 5 % of input channels that matter most in 16 bits; nibble alone reads such a folder",
    ],
    [
      'nibble quantize --explain --values "-0.5,1.2,-0.8,2.0,0.3"',
      "nothing is written: every number on the way to INT8, INT4 and NF4, and back",
    ],
  ],
  options: OPTIONS,
  check: checkChoice,
  run: (options) => options.explain ? explain(options) : write(options),
});
export default command;
