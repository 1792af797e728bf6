/**
 * What the choice of an observer costs: the error of each layer's input in 8 bits, by every observer, and by finer scales.
 *
 * @module
 */
import { affineParameters, levelsOf, type Range } from "../../kernels/quant/affine.ts";
import { roundHalfEven } from "../../kernels/quant/rounding.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { type ActivationKind, byteScheme } from "./activation_ranges.ts";
import type { CalibrationText } from "./calibration.ts";
import {
  type CalibrationObserver,
  eachInput,
  type InputStatistics,
  inputStatistics,
} from "./input_statistics.ts";

/** The observers of a report, by their names in it. */
export const REPORTED: ReadonlyMap<string, CalibrationObserver> = new Map<
  string,
  CalibrationObserver
>([
  ["min-max", { kind: "min-max" }],
  ["moving-average", { kind: "moving-average" }],
  ["percentile 99", { kind: "percentile", percentile: 99 }],
  ["percentile 99.9", { kind: "percentile", percentile: 99.9 }],
  ["percentile 99.99", { kind: "percentile", percentile: 99.99 }],
  ["mse", { kind: "mse" }],
  ["entropy", { kind: "entropy" }],
]);

/** What an observer's range makes of an input. */
export interface ObserverError {
  /** Its name: "percentile 99.9". */
  readonly observer: string;
  /** The range that it chose. */
  readonly range: Range;
  /** The share of the numbers outside of the range. */
  readonly clipped: number;
  /** The mean of `(x − x̂)²`. */
  readonly meanSquaredError: number;
  /** `10 · log10(Σ x² / Σ (x − x̂)²)`, in decibels; null where nothing was lost. */
  readonly sqnr: number | null;
}

/** What rounding does to the input of some layers. */
export interface InputReport {
  /** The layers; all read the same. */
  readonly layers: readonly string[];
  /** The largest number in magnitude, its channel, and how many times the median channel's largest it is. */
  readonly outlier: {
    readonly magnitude: number;
    readonly channel: number;
    readonly timesMedian: number;
  };
  /** By observers: one scale for all. */
  readonly observers: readonly ObserverError[];
  /** The ratio in decibels if each token has a scale of its own, as with dynamic activations; null where nothing was lost. */
  readonly perToken: number | null;
  /** The same if each channel has one, which no product of bytes can use, but SmoothQuant comes near to. */
  readonly perChannel: number | null;
}

const decibels = (signal: number, noise: number) =>
  noise === 0 ? null : 10 * Math.log10(signal / noise);

/** Sums of squared errors of an input. */
class ErrorSums {
  readonly #statistics: InputStatistics;
  readonly #grids: { name: string; range: Range; scale: number; zero: number }[];
  readonly #least: number;
  readonly #noise: Float64Array;
  readonly #clipped: Float64Array;
  #signal = 0;
  #token = 0;
  #channel = 0;

  constructor(statistics: InputStatistics, kind: ActivationKind) {
    const scheme = byteScheme(kind);
    this.#statistics = statistics;
    this.#least = levelsOf(scheme).least;
    this.#grids = [...REPORTED].map(([name, observer]) => {
      const range = statistics.range(observer, scheme);
      return { name, range, ...affineParameters(range, scheme) };
    });
    this.#noise = new Float64Array(this.#grids.length);
    this.#clipped = new Float64Array(this.#grids.length);
  }

  /** Looks at a window, [tokens, channels]. */
  add(numbers: Float32Array): void {
    const { channels } = this.#statistics;
    const width = channels.length;
    for (const x of numbers) this.#signal += x * x;
    for (const [i, { range, scale, zero }] of this.#grids.entries()) {
      const [low, high] = [this.#least - zero, 127 - zero];
      for (const x of numbers) {
        const q = Math.max(low, Math.min(high, roundHalfEven(x / scale)));
        this.#noise[i] += (x - q * scale) ** 2;
        if (x < range.low || x > range.high) this.#clipped[i]++;
      }
    }
    for (let row = 0; row < numbers.length; row += width) {
      let most = 0;
      for (let c = 0; c < width; c++) most = Math.max(most, Math.abs(numbers[row + c]));
      const scale = most / 127;
      for (let c = 0; c < width; c++) {
        const x = numbers[row + c];
        if (scale > 0) this.#token += (x - roundHalfEven(x / scale) * scale) ** 2;
        const own = channels[c] / 127;
        if (own > 0) this.#channel += (x - roundHalfEven(x / own) * own) ** 2;
      }
    }
  }

  report(): InputReport {
    const { paths, channels, histogram: { total } } = this.#statistics;
    const magnitude = channels.reduce((a, b) => Math.max(a, b), 0);
    const median = channels.toSorted()[channels.length >> 1];
    return {
      layers: paths,
      outlier: {
        magnitude,
        channel: channels.indexOf(magnitude),
        timesMedian: median === 0 ? Infinity : magnitude / median,
      },
      observers: this.#grids.map(({ name, range }, i) => ({
        ...{ observer: name, range },
        clipped: this.#clipped[i] / total,
        meanSquaredError: this.#noise[i] / total,
        sqnr: decibels(this.#signal, this.#noise[i]),
      })),
      perToken: decibels(this.#signal, this.#token),
      perChannel: decibels(this.#signal, this.#channel),
    };
  }
}

/**
 * Compares the observers on what a model's linear layers read. The text is read twice: for the ranges, and for the errors.
 *
 * @param model a model, quantized or not
 * @param text what it reads
 * @param kind whether ranges are symmetric
 * @returns a report for each input, in the order of the model
 * @throws {RangeError} if there is too little text, or an activation is not finite
 */
export async function observerReport(
  model: LanguageModel,
  text: CalibrationText,
  kind: ActivationKind = "symmetric",
): Promise<InputReport[]> {
  const statistics = await inputStatistics(model, text);
  const sums = new Map(statistics.map((own) => [own.paths[0], new ErrorSums(own, kind)]));
  const groups = statistics.map(({ paths }) => paths);
  await eachInput(model, text, groups, ([path], numbers) => sums.get(path)!.add(numbers));
  return [...sums.values()].map((own) => own.report());
}
