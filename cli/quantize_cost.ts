/**
 * What `nibble quantize` cost: how far weights have moved, and what became of the model's size.
 *
 * @module
 */
import { lastName } from "../train/adapters/targets.ts";
import { isGgufPath } from "../train/files/gguf.ts";
import type { TensorSource } from "../train/files/safetensors.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { turned } from "../train/models/turn.ts";
import { ErrorSums } from "../train/quant/layer_errors.ts";
import { denseWeight } from "../train/quant/weight_only.ts";
import { bytes, count, percent, printLine, significant, table } from "./print.ts";
import { progress } from "./progress.ts";

/** How far the weights of one kind of layer have moved. */
export interface KindError {
  /** The last part of the layers' names, such as `q_proj`. */
  readonly type: string;
  readonly layers: number;
  readonly weights: number;
  readonly meanSquaredError: number;
  /** ‖w − ŵ‖ / ‖w‖ over all of them. */
  readonly relativeError: number;
}

/** A model's size. */
export interface Size {
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
export async function measureErrors(
  model: LanguageModel,
  source: TensorSource,
  json: boolean,
): Promise<KindError[]> {
  const sums = new Map<string, ErrorSums>();
  const all = new ErrorSums();
  const layers = [...model.linearLayers()];
  using bar = progress({ total: layers.length, label: "Comparing layers", json });
  for (const [done, [path, layer]] of layers.entries()) {
    const type = lastName(path);
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

/** Bytes of a GGUF file, or of a folder's safetensors files, in one or in shards. */
async function fileBytesOf(folder: string): Promise<number> {
  if (isGgufPath(folder)) return (await Deno.stat(folder)).size;
  let sum = 0;
  for await (const { name } of Deno.readDir(folder)) {
    if (!/^model(-\d+-of-\d+)?\.safetensors$/.test(name)) continue;
    sum += (await Deno.stat(`${folder}/${name}`)).size;
  }
  return sum;
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

/** Bits of the linear layers' weights in memory, quantized. */
function bitsOf(model: LanguageModel): number {
  const layers = [...model.linearLayers()].map(([, layer]) => layer);
  const weights = layers.reduce((sum, { shape }) => sum + shape[0] * shape[1], 0);
  return 8 * layers.reduce((sum, { weightBytes }) => sum + weightBytes, 0) / weights;
}

/** The size of a checkpoint that a model was loaded from. */
export async function sizeBefore(
  folder: string,
  source: TensorSource,
  model: LanguageModel,
): Promise<Size> {
  return { fileBytes: await fileBytesOf(folder), bitsPerWeight: bitsIn(source, model) };
}

/** The size of a model that nibble saved to a folder, in one file. */
export async function sizeAfter(folder: string, model: LanguageModel): Promise<Size> {
  const { size: fileBytes } = await Deno.stat(`${folder}/model.safetensors`);
  return { fileBytes, bitsPerWeight: bitsOf(model) };
}

/** A row for each kind of layer; nothing where nothing was measured. */
export function printErrors(errors: readonly KindError[]): void {
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

/** Before and after, side by side. */
export function printSizes(before: Size, after: Size): void {
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
