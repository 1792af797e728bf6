/**
 * Static activations in 8 bits for models whose activations have outliers: what each linear layer reads is smoothed and turned before
 * it is rounded, so that one scale that was fixed beforehand does for all tokens.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { empty, type Tensor, tensor, viewOf } from "../../core/tensor.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import { columnChoice, pickColumns } from "../../kernels/pointwise/pick_columns.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import { OutlierTensor } from "../../kernels/quant/outlier_split.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import { rotate, type Rotation, rotationSize } from "../../kernels/quant/rotate.ts";
import { RotatedTensor } from "../../kernels/quant/rotated_tensor.ts";
import { max } from "../../kernels/reduce/max.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { QuantizedLinear } from "../nn/linear.ts";
import { type CalibrationText, calibrationWindows, watchInputs } from "./calibration.ts";
import { type InputStatistics, inputStatistics } from "./input_statistics.ts";
import { checkAlpha, SMOOTHING, smoothingFactors, weightChannels } from "./smooth_quant.ts";
import { denseWeight, largestIndexes, quantizeWeight, ReplacedLayers } from "./weight_only.ts";

/** How `rotateLayers` goes about it. */
export interface RotateOptions {
  /** What the model reads: some thousand tokens, not of the text that it is tested on. */
  readonly text: CalibrationText;
  /** "int8" (the default): symmetric, a scale for each row. "int4": 16 levels with a zero point in groups. */
  readonly weights?: "int8" | "int4";
  /** Turned weights along a row that share a scale: the row for int8, 64 for int4. */
  readonly groupSize?: number;
  /** SmoothQuant's exponent, 0.5 by default: 0 leaves all trouble with the weights, 1 moves all of it there. */
  readonly smooth?: number;
  /** The share of input channels, those with the largest activations, that stay in 16 bits: 0.01 by default, one at least. */
  readonly keep?: number;
  /**
   * How much wider ranges are than what was seen: 1.15 by default, 1 or more. What lies outside is clipped, and costs most: where the
   * text has but a thousand tokens, 1.3 is better.
   */
  readonly margin?: number;
  /** Told after each layer. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** What layers that read the same do to their input. */
interface Preparation {
  readonly paths: readonly string[];
  /** The channels that stay in 16 bits. */
  readonly columns: readonly number[];
  /** What is smoothed: 1 / factor, and 0 where a channel stays. */
  readonly before: Float32Array<ArrayBuffer>;
  readonly size: number;
}

/** Smoothing factors, and which channels stay, of each input. */
async function prepare(
  layers: ReplacedLayers,
  statistics: readonly InputStatistics[],
  smooth: number,
  keep: number,
): Promise<Preparation[]> {
  const out: Preparation[] = [];
  for (const { paths, channels } of statistics) {
    const weights = await weightChannels(layers, paths);
    const before = smoothingFactors(channels, weights, smooth).map((factor) => 1 / factor);
    const columns = largestIndexes(channels, keep);
    for (const column of columns) before[column] = 0;
    out.push({ paths, columns, before, size: rotationSize(channels.length) });
  }
  return out;
}

/** The largest magnitude of each turned channel while the model reads the text, by the first path of each input. */
async function turnedMaxima(
  model: LanguageModel,
  text: CalibrationText,
  preparations: readonly Preparation[],
): Promise<Map<string, Float32Array>> {
  const { device } = model;
  const windows = calibrationWindows(model, text);
  const inputs = new Map(preparations.map(({ paths, before, size }) => {
    const columns = before.length;
    const ones = device.keep(tensor(device, new Float32Array(columns).fill(1)));
    const rotation = { before: device.keep(tensor(device, before)), after: ones, size };
    // The largest and the least number negated, of each window.
    const found = device.keep(empty(device, [2 * windows.length, columns]));
    return [paths[0], { rotation, found, next: 0 }];
  }));
  await watchInputs(model, windows, new Set(inputs.keys()), ([path], x) => {
    const own = inputs.get(path)!;
    const columns = x.shape.at(-1)!;
    const turned = rotate(viewOf(x, [x.size / columns, columns]), own.rotation);
    for (const side of [turned, scale(turned, -1)]) {
      const row = viewOf(own.found, [columns], "f32", 4 * columns * own.next++);
      device.copy(max(side, { axis: 0 }), row);
    }
  });
  const maxima = new Map<string, Float32Array>();
  for (const [path, { rotation, found }] of inputs) {
    using most = device.scope(() => device.keep(noGrad(() => max(found, { axis: 0 }))));
    maxima.set(path, await most.read() as Float32Array);
    for (const own of [rotation.before, rotation.after, found]) own.dispose();
  }
  return maxima;
}

/** A layer's weight for turned inputs, with the columns that stay beside it. */
async function turnWeight(
  weight: Tensor,
  { columns, before, size }: Preparation,
  maxima: Float32Array,
  { weights: kind = "int8", groupSize, margin = 1.15 }: RotateOptions,
): Promise<QuantizedTensor> {
  const { device, shape } = weight;
  // A turned channel that was 0 on the whole text is 0 in the product too.
  const ranges = maxima.map((most) => most > 0 ? most : 1);
  const inverse = (x: Float32Array) => x.map((own) => own === 0 ? 0 : 1 / own);
  using turned = device.scope(() =>
    noGrad(() => {
      const back = { before: tensor(device, inverse(before)), after: tensor(device, ranges), size };
      return device.keep(rotate(weight, back));
    })
  );
  const rest = await quantizeWeight(turned, { kind, groupSize }) as IntegerTensor;
  const rotation: Rotation = {
    before: device.keep(tensor(device, before)),
    after: device.keep(tensor(device, inverse(ranges))),
    size,
  };
  // Each turned channel goes from −1 to 1 on the text.
  const own = new RotatedTensor(rest, rotation, { kind: "static", scale: margin / 127, zero: 0 });
  const choice = columnChoice(device, columns, shape[1]);
  const kept = device.scope(() =>
    noGrad(() => device.keep(cast(pickColumns(weight, choice), "f16")))
  );
  return new OutlierTensor(own, kept, choice);
}

function check({ smooth = SMOOTHING, margin = 1 }: RotateOptions): void {
  checkAlpha(smooth);
  if (margin >= 1 && margin <= 1e3) return;
  throw new RangeError(
    `Cannot widen ranges ${margin} times: wanted 1 (just what was seen) or more, such as 1.15`,
  );
}

/**
 * Quantizes the linear layers of a model in place, all of them: weights in 8 bits (or 4), activations in 8 with scales that are fixed
 * beforehand. What a layer reads is divided by SmoothQuant's factors (Xiao et al., arXiv 2211.10438), and turned by a Walsh-Hadamard
 * matrix in blocks, as QuaRot does (Ashkboos et al., arXiv 2404.00456): a number that is far larger than its neighbours is shared out
 * among them. Each turned channel is divided by the largest magnitude that it had on the text, and rounded with the same step. The few
 * channels with the largest activations ("massive activations", Sun et al., arXiv 2402.17762) skip all this: their products are in 32
 * bits, their weights in 16, as in LLM.int8 (Dettmers et al., arXiv 2208.07339). All factors are undone in the weights.
 *
 * `bench/quantization.md` says what it costs, and what simpler ways do.
 *
 * @param model a model with plain weights
 * @param options the text, and how
 * @returns what was replaced: `commit()` frees the plain weights, `restore()` puts them back
 * @throws {RangeError} if there is too little text, an activation is not finite, or an option makes no sense
 * @throws {TypeError} if a layer is quantized already
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, rotateLayers } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails into wood");
 * (await rotateLayers(model, { text: { ids } })).commit();
 * console.log(model.weightBytes);
 * ```
 */
export async function rotateLayers(
  model: LanguageModel,
  options: RotateOptions,
): Promise<ReplacedLayers> {
  const { text, smooth = SMOOTHING, keep = 0.01, onProgress } = options;
  check(options);
  const layers = new ReplacedLayers(model);
  for (const [path, layer] of model.linearLayers()) {
    if (!(layer instanceof QuantizedLinear)) continue;
    throw new TypeError(
      `Cannot rotate what "${path}" reads: its weight is in ${layer.weight.scheme} already; load the model without quantize`,
    );
  }
  const preparations = await prepare(layers, await inputStatistics(model, text), smooth, keep);
  const maxima = await turnedMaxima(model, text, preparations);
  const total = [...model.linearLayers()].length;
  let done = 0;
  try {
    for (const own of preparations) {
      for (const path of own.paths) {
        const dense = denseWeight(layers.layer(path));
        try {
          const turned = await turnWeight(dense.weight, own, maxima.get(own.paths[0])!, options);
          layers.replace(path, turned);
        } catch (error) {
          throw new RangeError(`Cannot quantize "${path}": ${(error as Error).message}`, {
            cause: error,
          });
        } finally {
          if (dense.own) dense.weight.dispose();
        }
        onProgress?.(++done, total);
      }
    }
  } catch (error) {
    layers.restore();
    throw error;
  }
  return layers;
}
