/**
 * What a model's linear layers read while it reads a text: enough of it to choose ranges by any observer, without a second look.
 *
 * @module
 */
import type { AffineScheme, Range } from "../../kernels/quant/affine.ts";
import { keptCopy, type Tensor } from "../../core/tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import {
  type CalibrationText,
  calibrationWindows,
  inputGroups,
  watchInputs,
} from "./calibration.ts";
import { Histogram } from "./histogram.ts";
import {
  createObserver,
  type Observer,
  type ObserverOptions,
  unknownObserver,
} from "./observers.ts";
import { entropyRange, percentileRange, searchedRange } from "./range_search.ts";

/** An observer that can do with a histogram: all but PyTorch's, which wants to see every number at once. */
export type CalibrationObserver = Exclude<ObserverOptions, { readonly kind: "histogram" }>;

/** The numbers that some layers read, all of them the same. */
export class InputStatistics {
  /** The layers. */
  readonly paths: readonly string[];
  /** Counts of all numbers. */
  readonly histogram: Histogram;
  /** The largest magnitude in each channel, f32 [inFeatures]. */
  readonly channels: Float32Array<ArrayBuffer>;
  /** The least and the largest number of each window. */
  readonly #windows: Float32Array[] = [];

  /** Nothing is seen yet; the histogram has so many bins at most. */
  constructor(paths: readonly string[], channels: number, mostBins?: number) {
    this.paths = paths;
    this.histogram = new Histogram(mostBins);
    this.channels = new Float32Array(channels);
  }

  /**
   * Looks at a window's numbers, [tokens, channels].
   *
   * @throws {RangeError} if one of them is NaN or infinite
   */
  add(numbers: Float32Array): void {
    const { channels } = this;
    const width = channels.length;
    let [low, high] = [Infinity, -Infinity];
    for (let row = 0; row < numbers.length; row += width) {
      for (let c = 0; c < width; c++) {
        const x = numbers[row + c];
        // NaN and infinity are what less themselves is not 0.
        if (x - x !== 0) throw this.#fault(row / width, c, x);
        if (x < low) low = x;
        if (x > high) high = x;
        const size = Math.abs(x);
        if (size > channels[c]) channels[c] = size;
      }
    }
    if (numbers.length > 0) this.#windows.push(Float32Array.of(low, high));
    this.histogram.add(numbers);
  }

  #fault(token: number, channel: number, value: number): RangeError {
    return new RangeError(
      `Cannot calibrate "${
        this.paths[0]
      }": what it reads has ${value} in channel ${channel} of token ${
        token + 1
      } of a window, wanted finite numbers; a model that gives such activations is broken before it is quantized`,
    );
  }

  /** The range that an observer chooses, having seen the same windows. */
  range(options: CalibrationObserver, scheme: AffineScheme): Range {
    // Makes sure that the options make sense, also where the histogram is asked.
    const observer: Observer = createObserver(options, scheme);
    const { histogram } = this;
    if (options.kind === "min-max" || options.kind === "moving-average") {
      for (const ends of this.#windows) observer.observe(ends);
      return observer.range();
    }
    const { low, high } = histogram;
    if (low >= high) return { low, high };
    switch (options.kind) {
      case "percentile":
        return percentileRange(
          histogram,
          options.percentile ?? 99.99,
          scheme.kind !== "asymmetric",
        );
      case "mse":
        return searchedRange(histogram, scheme);
      case "entropy":
        return entropyRange(histogram, scheme);
      default:
        throw unknownObserver(options);
    }
  }
}

/** Bytes of inputs that are in memory at a time; the text is read once for each portion. */
const PORTION = 256 << 20;

/** Calls `look` with the inputs of each group of layers that read the same, [tokens, channels], window by window. */
export async function eachInput(
  model: LanguageModel,
  text: CalibrationText,
  groups: readonly (readonly string[])[],
  look: (group: readonly string[], numbers: Float32Array) => void,
): Promise<void> {
  const windows = calibrationWindows(model, text);
  const columns = new Map([...model.linearLayers()].map(([path, { shape }]) => [path, shape[1]]));
  for (let from = 0; from < groups.length;) {
    let [to, bytes] = [from, 0];
    while (to < groups.length && (to === from || bytes < PORTION)) {
      bytes += 4 * windows[0].length * columns.get(groups[to++][0])!;
    }
    const portion = new Map(groups.slice(from, to).map((group) => [group[0], group]));
    for (const window of windows) {
      const seen: [readonly string[], Tensor][] = [];
      await watchInputs(model, [window], new Set(portion.keys()), ([path], x) => {
        seen.push([portion.get(path)!, keptCopy(x)]);
      });
      const read = await Promise.all(seen.map(([, own]) => own.read()));
      for (const [, own] of seen) own.dispose();
      for (const [i, [group]] of seen.entries()) look(group, read[i] as Float32Array);
    }
    from = to;
  }
}

/**
 * Runs a text through a model and keeps what its linear layers read.
 *
 * @param model a model, quantized or not
 * @param text what it reads
 * @returns for each group of layers with the same input its statistics, in the order of the model
 * @throws {RangeError} if there is too little text, or an activation is not finite
 */
export async function inputStatistics(
  model: LanguageModel,
  text: CalibrationText,
): Promise<InputStatistics[]> {
  // Before the model runs at all: what is wrong with the text is said first.
  calibrationWindows(model, text);
  const groups = await inputGroups(model);
  const columns = new Map([...model.linearLayers()].map(([path, { shape }]) => [path, shape[1]]));
  const all = new Map(
    groups.map((group) => [group[0], new InputStatistics(group, columns.get(group[0])!)]),
  );
  await eachInput(model, text, groups, ([path], numbers) => all.get(path)!.add(numbers));
  return [...all.values()];
}
