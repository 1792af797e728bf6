/**
 * Calibration: ranges of what a model's linear layers read, found once, kept in a file, used often.
 *
 * @module
 */
import {
  affineParameters,
  type AffineScheme,
  levelsOf,
  type Range,
} from "../../kernels/quant/affine.ts";
import type { ActivationScheme } from "../../kernels/quant/quantize_rows.ts";
import type { LanguageModel } from "../models/language_model.ts";
import type { CalibrationText } from "./calibration.ts";
import { type CalibrationObserver, inputStatistics } from "./input_statistics.ts";
import { type SmoothedScaling, type SmoothingPlaces, smoothModel } from "./smooth_quant.ts";

/** Whether 0 is in the middle of the bytes, or at a zero point of its own. */
export type ActivationKind = "symmetric" | "asymmetric";

/** What a layer reads. */
export interface LayerRange {
  /** The range that the observer chose. */
  readonly range: Range;
  /** The least and the largest number that was seen. */
  readonly seen: Range;
  /** The largest magnitude in each channel, f32 [inFeatures]. */
  readonly channels: Float32Array<ArrayBuffer>;
}

/** SmoothQuant's factors, which the model had when it was calibrated. */
export interface Smoothing {
  /** The exponent. */
  readonly alpha: number;
  /** Where they were moved. */
  readonly scalings: readonly SmoothedScaling[];
}

/** What calibration found. `saveRanges` keeps it. */
export interface ActivationRanges {
  /** How ranges were chosen. */
  readonly observer: CalibrationObserver;
  /** What they are for. */
  readonly kind: ActivationKind;
  /** Tokens that were read. */
  readonly tokens: number;
  /** Factors that must be moved before the ranges are right; null without SmoothQuant. */
  readonly smoothing: Smoothing | null;
  /** By the paths of the model's linear layers. */
  readonly layers: ReadonlyMap<string, LayerRange>;
}

/** How a model is calibrated. */
export interface CalibrateOptions {
  /** What the model reads: some thousand tokens like those that it will be used on. */
  readonly text: CalibrationText;
  /** How ranges are chosen: min-max by default. */
  readonly observer?: CalibrationObserver;
  /** "symmetric" by default. */
  readonly kind?: ActivationKind;
  /** SmoothQuant's exponent, 0 to 1, of which 0.5 is usual; without it nothing is smoothed. */
  readonly smooth?: number;
  /** Where it is smoothed: "norms" by default. */
  readonly places?: SmoothingPlaces;
}

/** The whole numbers of activations. */
export function byteScheme(kind: ActivationKind): AffineScheme {
  return kind === "symmetric" ? { bits: 8, kind } : { bits: 8, kind, levels: "signed" };
}

/** Scale and zero point for a range. */
export function staticScheme(range: Range, kind: ActivationKind): ActivationScheme {
  const scheme = byteScheme(kind);
  return { kind: "static", ...affineParameters(range, scheme), least: levelsOf(scheme).least };
}

/**
 * Runs a text through a model, and chooses a range for the input of each linear layer. With `smooth`, SmoothQuant's factors are
 * found first, and ranges are those of the smoothed model. The model is as before afterwards.
 *
 * @param model a model; with plain weights where it is to be smoothed
 * @param options the text, the observer
 * @throws {RangeError} if there is too little text, an activation is not finite, or an option makes no sense
 * @throws {TypeError} if a quantized model is to be smoothed
 *
 * @example
 * ```ts
 * import { calibrateActivations, loadModel, openDevice, quantizeActivations } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails into wood");
 * const ranges = await calibrateActivations(model, { text: { ids }, observer: { kind: "mse" }, smooth: 0.5 });
 * console.log(ranges.layers.get("model.layers.0.mlp.down_proj")!.range);
 * (await quantizeActivations(model, { activations: "static", ranges })).commit();
 * ```
 */
export async function calibrateActivations(
  model: LanguageModel,
  options: CalibrateOptions,
): Promise<ActivationRanges> {
  const { text, observer = { kind: "min-max" }, kind = "symmetric", smooth } = options;
  let statistics = await inputStatistics(model, text);
  let smoothing: Smoothing | null = null;
  if (smooth !== undefined) {
    const { scalings, moved } = await smoothModel(model, statistics, smooth, options.places);
    try {
      statistics = await inputStatistics(model, text);
    } finally {
      moved.restore();
    }
    smoothing = { alpha: smooth, scalings };
  }
  const layers = new Map<string, LayerRange>();
  for (const own of statistics) {
    const { low, high } = own.histogram;
    const range = own.range(observer, byteScheme(kind));
    const found: LayerRange = { range, seen: { low, high }, channels: own.channels };
    for (const path of own.paths) layers.set(path, found);
  }
  const tokens = statistics[0].histogram.total / statistics[0].channels.length;
  return { observer, kind, tokens, smoothing, layers };
}
