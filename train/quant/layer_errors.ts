/**
 * How far quantized weights are from plain ones.
 *
 * @module
 */
import type { LanguageModel } from "../models/language_model.ts";
import type { LinearLayer } from "../nn/linear.ts";
import { denseWeight } from "./weight_only.ts";

/** What rounding has done to the weights of one layer. */
export interface LayerError {
  /** Its path. */
  readonly layer: string;
  /** The signal-to-noise ratio of the weights, `10 · log10(Σ w² / Σ (w − ŵ)²)`, in decibels; null where nothing was lost. */
  readonly sqnr: number | null;
  /** The largest `|w − ŵ|`. */
  readonly largestError: number;
  /** The mean of `|w − ŵ|`. */
  readonly meanError: number;
  /** The cosine between the weights before and after; 1 where one of them is nothing but zeros. */
  readonly cosine: number;
}

/** Errors of the weights of all linear layers. */
export interface LayerErrors {
  /** The signal-to-noise ratio over all of them, in decibels; null where nothing was lost. */
  readonly sqnr: number | null;
  /** The largest `|w − ŵ|`. */
  readonly largestError: number;
  /** The mean of `|w − ŵ|`. */
  readonly meanError: number;
  /** The least of the layers' cosines. */
  readonly leastCosine: number;
  /** The same of each layer that is another than before, in the order of the model. */
  readonly layers: readonly LayerError[];
}

/** Sums over the weights of one layer. */
interface Sums {
  readonly signal: number;
  readonly noise: number;
  readonly total: number;
  readonly largest: number;
  readonly size: number;
}

const decibels = (signal: number, noise: number) =>
  noise === 0 ? null : 10 * Math.log10(signal / noise);

/** Compares lists of numbers. */
export class ErrorSums {
  readonly #sums: Sums[] = [];
  readonly #layers: LayerError[] = [];

  #sum(pick: (own: Sums) => number): number {
    return this.#sums.reduce((all, own) => all + pick(own), 0);
  }

  /** Numbers so far. */
  get size(): number {
    return this.#sum(({ size }) => size);
  }

  /** The mean of `(w − ŵ)²`; 0 of no numbers. */
  get meanSquaredError(): number {
    return this.#sum(({ noise }) => noise) / Math.max(1, this.size);
  }

  /** `‖w − ŵ‖ / ‖w‖` over all of them; 0 where nothing was lost. */
  get relativeError(): number {
    const noise = this.#sum((own) => own.noise);
    return noise === 0 ? 0 : Math.sqrt(noise / this.#sum(({ signal }) => signal));
  }

  /** Takes a layer's numbers before and after. */
  add(layer: string, before: Float32Array, after: Float32Array): void {
    let [xx, yy, xy, noise, total, largest] = [0, 0, 0, 0, 0, 0];
    for (let i = 0; i < before.length; i++) {
      const [x, y] = [before[i], after[i]];
      const error = Math.abs(x - y);
      xx += x * x;
      yy += y * y;
      xy += x * y;
      noise += error * error;
      total += error;
      if (error > largest) largest = error;
    }
    const size = before.length;
    this.#sums.push({ signal: xx, noise, total, largest, size });
    this.#layers.push({
      layer,
      sqnr: decibels(xx, noise),
      largestError: largest,
      meanError: total / size,
      // Of equal weights the quotient may be a hair off 1.
      cosine: noise === 0 || !(xx > 0 && yy > 0) ? 1 : xy / Math.sqrt(xx * yy),
    });
  }

  /** What was found. */
  report(): LayerErrors {
    return {
      sqnr: decibels(this.#sum(({ signal }) => signal), this.#sum(({ noise }) => noise)),
      largestError: this.#sums.reduce((most, { largest }) => Math.max(most, largest), 0),
      meanError: this.#sum(({ total }) => total) / Math.max(1, this.size),
      leastCosine: this.#layers.reduce((least, { cosine }) => Math.min(least, cosine), 1),
      layers: this.#layers,
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
    sums.add(path, x as Float32Array, y as Float32Array);
  }
  return sums.report();
}
