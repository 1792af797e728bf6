/**
 * Models whose linear layers compute in whole numbers: weights in 8 or 4 bits, activations in 8.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { keptCopy } from "../../core/tensor.ts";
import { IntegerTensor } from "../../kernels/quant/integer.ts";
import type { ActivationScheme } from "../../kernels/quant/quantize_rows.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { QuantizedLinear } from "../nn/linear.ts";
import { QuantizedActivationLinear } from "../nn/quantized_activations.ts";
import {
  type ActivationRanges,
  calibrateActivations,
  type LayerRange,
  staticScheme,
} from "./activation_ranges.ts";
import type { CalibrationText } from "./calibration.ts";
import type { CalibrationObserver } from "./input_statistics.ts";
import type { MovedScales } from "./channel_scales.ts";
import { moveFactors, type SmoothingPlaces } from "./smooth_quant.ts";
import { denseWeight, quantizeWeight, ReplacedLayers } from "./weight_only.ts";

/** How a layer's input is rounded: each token with a scale of its own, all with one that is fixed, or not at all. */
export type ActivationMode = "dynamic" | "static" | "none";

/** How a model's layers become whole numbers. */
export interface QuantizeActivationsOptions {
  /**
   * "int8" (the default): symmetric, a scale for each row. "int4": 16 levels with a zero point in groups. "keep": layers are
   * int8 or int4 already, by GPTQ for example.
   */
  readonly weights?: "int8" | "int4" | "keep";
  /** Weights along a row that share a scale: the row for int8, 64 for int4. */
  readonly groupSize?: number;
  /**
   * For all layers, or for each by its path and what calibration found for it; "dynamic" by default. "none" leaves a layer's
   * activations in 32 bits.
   */
  readonly activations?:
    | ActivationMode
    | ((path: string, found: LayerRange | undefined) => ActivationMode);
  /** What calibration found, for static layers. If it was smoothed, the model is smoothed alike. */
  readonly ranges?: ActivationRanges;
  /** Instead of `ranges`: a text to calibrate on. */
  readonly calibration?: CalibrationText;
  /** With `calibration`: how ranges are chosen; min-max by default. */
  readonly observer?: CalibrationObserver;
  /** With `calibration`: SmoothQuant's exponent; without it nothing is smoothed. */
  readonly smooth?: number;
  /** With `smooth`: where; "norms" by default. */
  readonly places?: SmoothingPlaces;
  /** With `calibration`: whether ranges have zero points; "symmetric" by default. */
  readonly kind?: ActivationRanges["kind"];
}

/** A model whose layers were quantized. */
export interface QuantizedActivations {
  /** The ranges that static layers have; null where nothing was calibrated. */
  readonly ranges: ActivationRanges | null;
  /** Frees the plain weights. */
  commit(): void;
  /** Puts everything back. */
  restore(): void;
}

/**
 * Whether a layer is the second of a feed-forward part, which reads what came through the activation function: `down_proj`, GPT-2's
 * `mlp.c_proj`. There single tokens have channels thousands of times as large as others ("massive activations", Sun et al., arXiv
 * 2402.17762), which no scale for all tokens covers, and no normalization before them could take factors.
 */
export function readsActivation(path: string): boolean {
  return /\.(down_proj|mlp\.c_proj)$/.test(path);
}

/** The integer weight of a layer that has one, as a copy: the layer may be put back. */
function keptWeight(layers: ReplacedLayers, path: string): IntegerTensor {
  const layer = layers.layer(path);
  const weight = layer instanceof QuantizedLinear ? layer.weight : null;
  if (!(weight instanceof IntegerTensor)) {
    throw new TypeError(
      `Cannot multiply in whole numbers in "${path}": its weight is in ${
        weight?.scheme ?? "32-bit floats"
      }, wanted int8 or int4; quantize it first, or pass weights: "int8" or "int4"`,
    );
  }
  const { shape, scheme, groupSize, packed, scales, zeroBits } = weight;
  return new IntegerTensor(shape, scheme, groupSize, keptCopy(packed), keptCopy(scales), zeroBits);
}

/** The weight of a plain layer in whole numbers. */
async function newWeight(
  layers: ReplacedLayers,
  path: string,
  kind: "int8" | "int4",
  groupSize: number | undefined,
): Promise<IntegerTensor> {
  const layer = layers.layer(path);
  if (layer instanceof QuantizedLinear) {
    throw new TypeError(
      `Cannot quantize "${path}" to ${kind}: it is in ${layer.weight.scheme} already; load the model without quantize, ` +
        'or pass weights: "keep" if its weights are int8 or int4',
    );
  }
  const dense = denseWeight(layer);
  try {
    return await quantizeWeight(dense.weight, { kind, groupSize }) as IntegerTensor;
  } catch (error) {
    throw new RangeError(`Cannot quantize "${path}": ${(error as Error).message}`, {
      cause: error,
    });
  } finally {
    if (dense.own) dense.weight.dispose();
  }
}

function schemeOf(
  path: string,
  mode: ActivationMode,
  ranges: ActivationRanges | null,
  inFeatures: number,
): ActivationScheme {
  if (mode !== "static") return { kind: "dynamic" };
  const found = ranges?.layers.get(path);
  if (!found) {
    throw new RangeError(
      `Cannot fix the range of what "${path}" reads: calibration has found none for it; calibrate this model itself`,
    );
  }
  if (found.channels.length !== inFeatures) {
    throw new RangeError(
      `Cannot fix the range of what "${path}" reads: it was calibrated with ${found.channels.length} channels, and has ` +
        `${inFeatures}; calibrate this model itself`,
    );
  }
  return staticScheme(found.range, ranges!.kind);
}

/** The ranges to use, found now if need be. */
async function rangesFor(
  model: LanguageModel,
  options: QuantizeActivationsOptions,
  wanted: boolean,
): Promise<ActivationRanges | null> {
  const { ranges, calibration: text, observer, smooth, places, kind } = options;
  if (ranges) return ranges;
  if (text) return await calibrateActivations(model, { text, observer, smooth, places, kind });
  if (!wanted && smooth === undefined) return null;
  throw new TypeError(
    `Cannot ${wanted ? "fix the ranges of activations" : "smooth a model"} without a text to ` +
      "calibrate on: pass calibration, or ranges that were found earlier",
  );
}

/**
 * Quantizes the linear layers of a model in place, weights and activations: W8A8 by default, or W4A8. Products are sums of whole
 * numbers. Dynamic activations have a scale for each token, and need no text; static ones were fixed by calibration. Embedding,
 * output layer and normalizations stay in 32 bits.
 *
 * A single scale for all tokens must cover the largest number that any of them has in any channel. Where a few channels are far
 * larger than the others, `smooth` moves them into the weights. The layers that hurt most may be left dynamic, or in 32 bits:
 * mostly those that `readsActivation` names. `rotateLayers` needs no such exceptions.
 *
 * @param model a model with plain weights, unless weights are kept
 * @param options how
 * @returns what was replaced: `commit()` frees the plain weights, `restore()` puts them back
 * @throws {RangeError} if a weight or an activation is not finite, or there is too little text
 * @throws {TypeError} if a layer is quantized already, or nothing to calibrate on is given
 *
 * @example Each token's own scale, without any text
 * ```ts
 * import { loadModel, openDevice, quantizeActivations } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const made = await quantizeActivations(model, { weights: "int8", activations: "dynamic" });
 * console.log(model.weightBytes);
 * made.restore();
 * ```
 */
export async function quantizeActivations(
  model: LanguageModel,
  options: QuantizeActivationsOptions = {},
): Promise<QuantizedActivations> {
  const { weights = "int8", groupSize, activations = "dynamic" } = options;
  const modeOf = typeof activations === "function" ? activations : () => activations;
  const ranges = await rangesFor(model, options, activations === "static");
  const modes = new Map(
    [...model.linearLayers()].map(([path]) => [path, modeOf(path, ranges?.layers.get(path))]),
  );
  const layers = new ReplacedLayers(model);
  let moved: MovedScales | null = null;
  try {
    if (ranges?.smoothing) moved = moveFactors(model, ranges.smoothing.scalings);
    for (const [path, mode] of modes) {
      const scheme = schemeOf(path, mode, ranges, layers.layer(path).shape[1]);
      if (mode === "none" && weights === "keep") continue;
      const weight = weights === "keep"
        ? keptWeight(layers, path)
        : await newWeight(layers, path, weights, groupSize);
      if (mode === "none") layers.replace(path, weight);
      else {
        noGrad(() =>
          layers.replace(
            path,
            weight,
            (own, bias) => new QuantizedActivationLinear(own, scheme, bias),
          )
        );
      }
    }
  } catch (error) {
    layers.restore();
    moved?.restore();
    throw error;
  }
  return {
    ranges,
    commit() {
      layers.commit();
      moved?.commit();
    },
    restore() {
      layers.restore();
      moved?.restore();
    },
  };
}
