/**
 * How far quantized weights are from plain ones.
 *
 * @module
 */
import type { LanguageModel } from "../models/language_model.ts";
import type { LinearLayer } from "../nn/linear.ts";
import { denseWeight } from "./weight_only.ts";

/** Errors of the weights of all linear layers. */
export interface LayerErrors {
  /** The signal-to-noise ratio of the weights, `10 · log10(Σ w² / Σ (w − ŵ)²)`, in decibels; null where nothing was lost. */
  readonly sqnr: number | null;
  /** The largest `|w − ŵ|`. */
  readonly largestError: number;
  /** The mean of `|w − ŵ|`. */
  readonly meanError: number;
  /** The least cosine between a layer's weights before and after. */
  readonly leastCosine: number;
}

/** Compares two lists of numbers. */
export class ErrorSums {
  #signal = 0;
  #noise = 0;
  #size = 0;
  #total = 0;
  #largest = 0;
  #cosine = 1;

  /** Takes a layer's numbers before and after. */
  add(before: Float32Array, after: Float32Array): void {
    let [xx, yy, xy] = [0, 0, 0];
    for (let i = 0; i < before.length; i++) {
      const [x, y] = [before[i], after[i]];
      const error = Math.abs(x - y);
      xx += x * x;
      yy += y * y;
      xy += x * y;
      this.#noise += error * error;
      this.#total += error;
      if (error > this.#largest) this.#largest = error;
    }
    this.#signal += xx;
    this.#size += before.length;
    if (xx > 0 && yy > 0) this.#cosine = Math.min(this.#cosine, xy / Math.sqrt(xx * yy));
  }

  /** What was found. */
  report(): LayerErrors {
    return {
      sqnr: this.#noise === 0 ? null : 10 * Math.log10(this.#signal / this.#noise),
      largestError: this.#largest,
      meanError: this.#total / Math.max(1, this.#size),
      leastCosine: this.#cosine,
    };
  }
}

/**
 * Compares the layers of a model with what they were. AWQ scales channels before it rounds, and so changes plain weights on
 * purpose: there the comparison is with the scaled ones.
 */
export async function layerErrors(
  model: LanguageModel,
  before: ReadonlyMap<string, LinearLayer>,
): Promise<LayerErrors> {
  const sums = new ErrorSums();
  for (const [path, layer] of model.linearLayers()) {
    const old = before.get(path)!;
    if (old === layer) continue;
    const pair = [denseWeight(old), denseWeight(layer)];
    const [x, y] = await Promise.all(pair.map(({ weight }) => weight.read()));
    for (const { weight, own } of pair) if (own) weight.dispose();
    sums.add(x as Float32Array, y as Float32Array);
  }
  return sums.report();
}
