/**
 * What A and B begin with.
 *
 * @module
 */
import { Random } from "../../core/random.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import { type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { joinPath } from "../nn/module.ts";
import { denseWeight } from "../quant/weight_only.ts";
import type { CompleteLora } from "./lora_options.ts";
import { leadingColumns } from "./qr.ts";
import { largestSingular } from "./svd.ts";
import { valueFor } from "./targets.ts";

/** Streams of a seed that are apart from those that a random model with the same seed draws from ("lora" in ASCII). */
const FIRST_STREAM = 0x6c6f7261;

/** What an adapter begins with, where it is not drawn. */
export interface LoraStart {
  /** A, B, magnitudes and whole modules by the names that PEFT saves them under. */
  readonly weights?: ReadonlyMap<string, Float32Array>;
  /** What was taken out of the layers' weights. */
  readonly parts?: ReadonlyMap<string, TakenPart>;
}

/** A part that was taken out of a layer's weight: `scaling · B · A`. */
export interface TakenPart {
  /** f32 [r, inFeatures]. */
  readonly a: Float32Array;
  /** f32 [outFeatures, r]. */
  readonly b: Float32Array;
  /** What is left, f32 [outFeatures, inFeatures]: it takes the place of the weight. */
  readonly rest: Tensor;
}

/** The name that PEFT saves a tensor under, from its module's path and its own name; the path may be in the name. */
export function peftName(path: string, name: string): string {
  return `base_model.model.${joinPath(path, name)}`;
}

/** The rank of a layer, and its factor: alpha / r, or alpha / √r. */
export function rankAndScaling(
  path: string,
  options: CompleteLora,
): { r: number; scaling: number } {
  const r = valueFor(path, options.rankPattern, options.r);
  const alpha = valueFor(path, options.alphaPattern, options.alpha);
  return { r, scaling: alpha / (options.useRslora ? Math.sqrt(r) : r) };
}

/**
 * A's first values, as PEFT draws them: Kaiming-uniform with a = √5, which is uniform in ±1/√in, or normal with deviation 1 / r.
 *
 * @param site which of the adapter's layers it is for
 */
export function drawA(
  { seed, init }: CompleteLora,
  site: number,
  r: number,
  inFeatures: number,
): Float32Array {
  const random = new Random(seed, FIRST_STREAM + site);
  const bound = 1 / Math.sqrt(inFeatures);
  const draw = init === "gaussian"
    ? () => random.normal() / r
    : () => random.uniform(-bound, bound);
  return Float32Array.from({ length: r * inFeatures }, draw);
}

/** A factor of a weight: W ≈ B · A, with B [rows, r] and A [r, columns]. */
export interface Factors {
  readonly a: Float64Array;
  readonly b: Float64Array;
}

/**
 * PiSSA's A and B: the r largest singular values of W and their vectors, with `scaling · B · A` the best approximation of W of
 * that rank (Meng et al., arXiv 2404.02948).
 */
function pissa(
  w: Float32Array,
  rows: number,
  columns: number,
  r: number,
  scaling: number,
): Factors {
  const { values, left, right } = largestSingular(w, rows, columns, r);
  const a = new Float64Array(r * columns);
  const b = new Float64Array(rows * r);
  for (let j = 0; j < r; j++) {
    const root = Math.sqrt(values[j] / scaling);
    for (let k = 0; k < columns; k++) a[j * columns + k] = root * right[j * columns + k];
    for (let i = 0; i < rows; i++) b[i * r + j] = root * left[j * rows + i];
  }
  return { a, b };
}

/** W − scaling · B · A, in 64 bits. */
function residualOf(
  w: Float32Array,
  { a, b }: { a: Float32Array; b: Float32Array },
  rows: number,
  columns: number,
  scaling: number,
): Float32Array<ArrayBuffer> {
  const r = b.length / rows;
  const out = new Float32Array(w.length);
  const row = new Float64Array(columns);
  for (let i = 0; i < rows; i++) {
    row.fill(0);
    for (let j = 0; j < r; j++) {
      const factor = scaling * b[i * r + j];
      for (let k = 0; k < columns; k++) row[k] += factor * a[j * columns + k];
    }
    for (let k = 0; k < columns; k++) out[i * columns + k] = w[i * columns + k] - row[k];
  }
  return out;
}

/**
 * Takes A and B out of the layers' weights, as PEFT does for "pissa" and "olora". It runs on the host in 64 bits: per layer
 * PiSSA costs about 10 · s³ operations, s the smaller side of the weight, OLoRA about 4 · r · rows · columns.
 *
 * @throws {TypeError} if a layer is quantized
 * @throws {RangeError} if the rank is larger than a side of a layer's weight
 */
export async function decompose(
  model: LanguageModel,
  options: CompleteLora,
  paths: readonly string[],
): Promise<Map<string, TakenPart>> {
  const layers = new Map(model.linearLayers());
  for (const path of paths) checkLayer(path, layers.get(path)!, options);
  const parts = new Map<string, TakenPart>();
  try {
    for (const path of paths) {
      const layer = layers.get(path)!;
      const [rows, columns] = layer.shape;
      const { r, scaling } = rankAndScaling(path, options);
      const dense = denseWeight(layer);
      const w = await dense.weight.read() as Float32Array;
      if (dense.own) dense.weight.dispose();
      const exact = options.init === "pissa"
        ? pissa(w, rows, columns, r, scaling)
        : leadingColumns(w, rows, columns, r);
      const a = Float32Array.from(exact.a);
      const b = Float32Array.from(exact.b);
      const { device } = model;
      const rest = residualOf(w, { a, b }, rows, columns, scaling);
      parts.set(path, { a, b, rest: device.keep(tensor(device, rest, layer.shape)) });
    }
  } catch (error) {
    for (const { rest } of parts.values()) rest.dispose();
    throw error;
  }
  return parts;
}

function checkLayer(path: string, layer: LinearLayer, options: CompleteLora): void {
  if (layer instanceof QuantizedLinear) {
    throw new TypeError(
      `Cannot begin with "${options.init}" on "${path}": found its weight in ${layer.weight.scheme}, wanted plain numbers to take A and B out ` +
        "of; load the model without quantize, or with dequantize: true, or use init: true",
    );
  }
  if (layer instanceof FakeQuantLinear) {
    throw new TypeError(
      `Cannot begin with "${options.init}" on "${path}": found it prepared for quantization-aware training; add the adapter ` +
        "first, and call prepareQat then",
    );
  }
  const { r } = rankAndScaling(path, options);
  const most = Math.min(...layer.shape);
  if (r <= most) return;
  throw new RangeError(
    `Cannot begin with "${options.init}" on "${path}": found r ${r}, wanted at most ${most}, the smaller side of its weight`,
  );
}
