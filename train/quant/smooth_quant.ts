/**
 * SmoothQuant: what makes activations hard to round is moved into the weights, which have room for it. Xiao et al.
 * (arXiv 2211.10438).
 *
 * @module
 */
import type { LanguageModel, Scaling } from "../models/language_model.ts";
import { LinearLayer } from "../nn/linear.ts";
import { MovedScales } from "./channel_scales.ts";
import type { InputStatistics } from "./input_statistics.ts";
import { denseWeight, ReplacedLayers } from "./weight_only.ts";

/** Factors of one scaling: its readers' inputs are divided by them, their weights multiplied. */
export interface SmoothedScaling extends Scaling {
  /** f32, one for each channel, above 0. */
  readonly factors: Float32Array<ArrayBuffer>;
}

/** How much is moved, where nothing else is said: as much trouble is left on one side as on the other. */
export const SMOOTHING = 0.5;

/** The least and the largest factor. Far beyond those of real models: they keep float32 from running out. */
const [LEAST, MOST] = [1e-5, 1e5];

/** `max|X_j|^alpha / max|W_j|^(1 − alpha)`; 1 for a channel that is 0 on one side, whose factor would not matter. */
export function smoothingFactors(
  activations: ArrayLike<number>,
  weights: ArrayLike<number>,
  alpha: number,
): Float32Array<ArrayBuffer> {
  return Float32Array.from(activations, (x, j) => {
    const w = weights[j];
    if (x === 0 || w === 0) return 1;
    return Math.min(MOST, Math.max(LEAST, x ** alpha / w ** (1 - alpha)));
  });
}

/** The largest magnitude that any of the readers' weights has in each channel. */
export async function weightChannels(
  layers: ReplacedLayers,
  readers: readonly string[],
): Promise<Float64Array> {
  const dense = readers.map((path) => denseWeight(layers.layer(path)));
  const numbers = await Promise.all(dense.map(({ weight }) => weight.read()));
  const columns = dense[0].weight.shape[1];
  for (const { weight, own } of dense) if (own) weight.dispose();
  const out = new Float64Array(columns);
  for (const weight of numbers) {
    for (let i = 0; i < weight.length; i++) {
      const size = Math.abs(weight[i]);
      const column = i % columns;
      if (size > out[column]) out[column] = size;
    }
  }
  return out;
}

/**
 * Where factors are moved: out of normalizations, as the paper has it; or everywhere, from a layer into the next too. There, a
 * channel that is thousands of times as large as others takes the bits of all weights of the layer behind it.
 */
export type SmoothingPlaces = "norms" | "all";

/** The places of a model. */
function placesOf(model: LanguageModel, places: SmoothingPlaces): Scaling[] {
  const modules = new Map(model.modules());
  const all = [...model.scalings()];
  return places === "all"
    ? all
    : all.filter(({ source }) => !(modules.get(source) instanceof LinearLayer));
}

/** Throws a RangeError unless alpha is from 0 to 1. */
export function checkAlpha(alpha: number): void {
  if (alpha >= 0 && alpha <= 1) return;
  throw new RangeError(
    `Cannot smooth with an alpha of ${alpha}: wanted 0 (all trouble stays with the weights) to 1 (all goes there)`,
  );
}

/**
 * Chooses factors for the places of a model where they can be moved from a normalization, or with "all" from a layer, into the
 * layers behind it, and moves them. The model computes what it did, but for rounding in 32 bits.
 *
 * @param model a model with plain weights
 * @param statistics what its layers read
 * @param alpha 0 to 1
 * @param places "norms" by default
 * @returns the factors, and the weights before
 * @throws {TypeError} if the model is quantized already
 */
export async function smoothModel(
  model: LanguageModel,
  statistics: readonly InputStatistics[],
  alpha: number = SMOOTHING,
  places: SmoothingPlaces = "norms",
): Promise<{ scalings: SmoothedScaling[]; moved: MovedScales }> {
  checkAlpha(alpha);
  const byPath = new Map(statistics.flatMap((own) => own.paths.map((path) => [path, own])));
  const layers = new ReplacedLayers(model);
  const moved = new MovedScales(model);
  const scalings: SmoothedScaling[] = [];
  try {
    // A layer may be a reader here and the source of the next: weights are read when it is their turn. Activations need not be
    // looked at again, as no scaling changes what readers of another read.
    for (const scaling of placesOf(model, places)) {
      const x = byPath.get(scaling.readers[0]);
      if (!x) continue;
      const w = await weightChannels(layers, scaling.readers);
      const factors = smoothingFactors(x.channels, w, alpha);
      moved.move(scaling, factors);
      scalings.push({ ...scaling, factors });
    }
  } catch (error) {
    moved.restore();
    throw error;
  }
  return { scalings, moved };
}

/**
 * Moves factors that were chosen earlier.
 *
 * @throws {RangeError} if the model has no such place, or another number of channels there
 */
export function moveFactors(
  model: LanguageModel,
  scalings: readonly SmoothedScaling[],
): MovedScales {
  const known = new Map([...model.scalings()].map((own) => [own.source, own]));
  const layers = new ReplacedLayers(model);
  const moved = new MovedScales(model);
  try {
    for (const { source, factors } of scalings) {
      const own = known.get(source);
      const channels = own && layers.layer(own.readers[0]).shape[1];
      if (channels !== factors.length) {
        throw new RangeError(
          `Cannot smooth "${source}" with ${factors.length} factors: the model has ${
            channels === undefined ? "no such place" : `${channels} channels there`
          }; calibrate this model itself`,
        );
      }
      moved.move(own!, factors);
    }
  } catch (error) {
    moved.restore();
    throw error;
  }
  return moved;
}
