/** `nibble quantize`: a model folder in few bits, as bitsandbytes and transformers, or compressed-tensors, read it. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { IntegerTensor } from "../kernels/quant/integer.ts";
import { isFourBit } from "../train/files/bitsandbytes.ts";
import { openCheckpoint, type TensorSource } from "../train/files/safetensors.ts";
import { openGgufModel } from "../train/models/gguf.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel } from "../train/models/load.ts";
import { saveModel, type SaveModelOptions } from "../train/models/save.ts";
import { QuantizedLinear } from "../train/nn/linear.ts";
import { turned } from "../train/models/turn.ts";
import { ErrorSums } from "../train/quant/layer_errors.ts";
import { quantizeByPolicy, readPolicy } from "../train/quant/policy.ts";
import { denseWeight } from "../train/quant/weight_only.ts";
import { type Command, defineCommand } from "./command.ts";
import { MODEL_OPTIONS, modelFolder, WEIGHT_TYPES } from "./model_options.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonSwitch } from "./options.ts";
import { checkOut } from "./out_folder.ts";
import { bytes, count, percent, printJson, printLine, significant, table } from "./print.ts";
import { progress } from "./progress.ts";
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

const isGguf = (path: string) => /\.gguf$/i.test(path);

/** How far the weights of one kind of layer have moved. */
interface KindError {
  /** The last part of the layers' names, such as `q_proj`. */
  readonly type: string;
  readonly layers: number;
  readonly weights: number;
  readonly meanSquaredError: number;
  /** ‖w − ŵ‖ / ‖w‖ over all of them. */
  readonly relativeError: number;
}

/** A model's size. */
interface Size {
  /** Bytes of the safetensors files. */
  readonly fileBytes: number;
  /** Of the layers that are quantized; scales included, and constant tables not. */
  readonly bitsPerWeight: number;
}

/** What was summed over the layers of one type. */
function errorOf(type: string, sums: ErrorSums): KindError {
  const { size: weights, meanSquaredError, relativeError } = sums;
  return { type, layers: sums.report().layers.length, weights, meanSquaredError, relativeError };
}

/** Compares the quantized weights with those in the checkpoint. One layer at a time is in memory in 32 bits. */
async function measure(
  model: LanguageModel,
  source: TensorSource,
  json: boolean,
): Promise<KindError[]> {
  const sums = new Map<string, ErrorSums>();
  const all = new ErrorSums();
  const layers = [...model.linearLayers()];
  using bar = progress({ total: layers.length, label: "Comparing layers", json });
  for (const [done, [path, layer]] of layers.entries()) {
    const type = path.slice(path.lastIndexOf(".") + 1);
    const name = `${path}.weight`;
    // A model that was saved without its output layer has names without their first part.
    const own = source.entries.has(name) ? name : name.slice(name.indexOf(".") + 1);
    const [rows, columns] = layer.shape;
    const stored = await source.readFloats(own);
    const weight = model.storesTransposed ? turned(stored, columns, rows) : stored;
    const dense = denseWeight(layer);
    const decoded = await dense.weight.read() as Float32Array;
    if (dense.own) dense.weight.dispose();
    if (!sums.has(type)) sums.set(type, new ErrorSums());
    sums.get(type)!.add(path, weight, decoded);
    all.add(path, weight, decoded);
    bar.update(done + 1);
  }
  return [...sums, ["all", all] as const].map(([type, own]) => errorOf(type, own));
}

/** The tensors of a model folder, or of a GGUF file under Hugging Face's names. */
async function openSource(path: string): Promise<TensorSource> {
  return isGguf(path) ? (await openGgufModel(path)).source : await openCheckpoint(path);
}

/** Bytes of a GGUF file, or of a folder's safetensors files, in one or in shards. */
async function fileBytesOf(folder: string): Promise<number> {
  if (isGguf(folder)) return (await Deno.stat(folder)).size;
  let sum = 0;
  for await (const { name } of Deno.readDir(folder)) {
    if (!/^model(-\d+-of-\d+)?\.safetensors$/.test(name)) continue;
    sum += (await Deno.stat(`${folder}/${name}`)).size;
  }
  return sum;
}

/** The type that most of the model is in: what stays plain keeps it. */
function dtypeOf(source: TensorSource): NonNullable<SaveModelOptions["dtype"]> {
  const [largest] = [...source.entries.values()]
    .sort((a, b) => (b.end - b.begin) - (a.end - a.begin));
  return largest?.dtype === "BF16" ? "bf16" : largest?.dtype === "F16" ? "f16" : "f32";
}

/** Bits of the linear layers' weights in the checkpoint. */
function bitsIn(source: TensorSource, model: LanguageModel): number {
  let [size, weights] = [0, 0];
  for (const [path, { shape }] of model.linearLayers()) {
    const { begin, end } = source.entries.get(`${path}.weight`)!;
    size += end - begin;
    weights += shape[0] * shape[1];
  }
  return 8 * size / weights;
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

/** The same in memory, quantized. */
function bitsOf(model: LanguageModel): number {
  const layers = [...model.linearLayers()].map(([, layer]) => layer);
  const weights = layers.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0);
  return 8 * layers.reduce((sum, { weightBytes }) => sum + weightBytes, 0) / weights;
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

function printErrors(errors: readonly KindError[]): void {
  if (errors.length === 0) return;
  printLine(table(
    ["layer", "layers", "weights", "mean squared error", "relative error"],
    errors.map(({ type, layers, weights, meanSquaredError, relativeError }) => [
      type,
      layers,
      count(weights),
      significant(meanSquaredError),
      percent(relativeError),
    ]),
    { right: [2, 3, 4] },
  ));
  printLine();
}

function printSizes(before: Size, after: Size): void {
  printLine(table(
    ["size", "before", "after"],
    [
      ["weight files", bytes(before.fileBytes), bytes(after.fileBytes)],
      [
        "bits per quantized weight",
        before.bitsPerWeight.toFixed(3),
        after.bitsPerWeight.toFixed(3),
      ],
    ],
    { right: [1, 2] },
  ));
  printLine();
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
  async run(options) {
    const { model, quantize: type, doubleQuant, blockSize, json } = options;
    if (options.explain) {
      const path = model === undefined ? null : await modelFolder(model);
      using source = path === null ? null : await openSource(path);
      if (source) checkPlain(source, path!, [options.tensor!]);
      return await printExplanation(options, source, json);
    }
    const [name, out] = [model!, options.out!];
    await checkOut(out, "model", name);
    const folder = await modelFolder(name);
    using source = await openSource(folder);
    checkPlain(source, folder);
    using device = await openDevice();
    const policy = options.policy === undefined ? null : await readPolicy(options.policy);
    const ranges = await rangesOf(options);
    const { method, activations } = options;
    const loaded = await loadModel(
      device,
      folder,
      policy || method !== "round" || activations || isRanged(options)
        ? { dequantize: true, weights: "f32" }
        : { quantize: type, doubleQuant, blockSize },
    );
    if (policy) (await quantizeByPolicy(loaded, policy)).commit();
    else if (method !== "round") await quantizeByMethod(loaded, options, json);
    else if (isRanged(options)) await quantizeInRange(loaded, options);
    const isScaled = activations !== undefined &&
      await quantizeInputs(loaded, options, ranges, json);
    // AWQ and SmoothQuant scale channels before weights are rounded: they are not to be compared with those of the file.
    const layers = method === "awq" || isScaled ? [] : await measure(loaded, source, json);
    const dtype = dtypeOf(source);
    const before = { fileBytes: await fileBytesOf(folder), bitsPerWeight: bitsIn(source, loaded) };
    await saveModel(loaded, out, { dtype });
    const after = {
      fileBytes: (await Deno.stat(`${out}/model.safetensors`)).size,
      bitsPerWeight: bitsOf(loaded),
    };
    const block = options.per ? blockSize ?? null : blockOf(loaded, type, blockSize);
    if (json) {
      return printJson({
        model: name,
        out,
        ...policy ? { policy } : { quantize: type, method, doubleQuant, blockSize: block },
        ...isRanged(options) && { range: options.range ?? null, per: options.per ?? null },
        ...(method === "split" || activations === "rotated") && { keep: options.keep },
        ...activations && { activations, smooth: options.smooth ?? null },
        dtype,
        before,
        after,
        layers,
      });
    }
    printErrors(layers);
    printSizes(before, after);
    if (policy) {
      return printLine(
        `Written to ${out}: layers as ${options.policy} has them${
          showInputs(options)
        }, the rest in ${dtype}`,
      );
    }
    const scales = doubleQuant ? ", scales in 8 bits" : "";
    printLine(
      `Written to ${out}: ${type}${showMethod(options)} ${
        block ? `in blocks of ${block}` : options.per === "tensor" ? "by layers" : "by rows"
      }${showRange(options)}${scales}${showInputs(options)}, the rest in ${dtype}`,
    );
  },
});
export default command;
