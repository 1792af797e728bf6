/**
 * What rounding to 8 bits does to the numbers that some layers read: by every observer, with one range for all numbers, for those of a
 * token, and for those of a channel.
 *
 * @module
 */
import { affineParameters, levelsOf, type Range } from "../../kernels/quant/affine.ts";
import { roundHalfEven } from "../../kernels/quant/rounding.ts";
import { type ActivationKind, byteScheme } from "./activation_ranges.ts";
import { type CalibrationObserver, InputStatistics } from "./input_statistics.ts";

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

/** Bins of a channel's histogram: it has as many numbers as there are tokens, some thousands. */
export const CHANNEL_BINS = 1024;

/** A channel that is so many times as large as the median one is named as an outlier. */
export const OUTLYING = 4;

/** A channel this many times as large as the median one takes most of a common range from the others. */
export const OVERBEARING = 20;

/** So many of them are named. */
const MOST_NAMED = 12;

/** What rounding with some ranges has done. */
export interface RoundingError {
  /** The share of the numbers outside of their range. */
  readonly clipped: number;
  /** The mean of `(x − x̂)²`. */
  readonly meanSquaredError: number;
  /** `10 · log10(Σ x² / Σ (x − x̂)²)`, in decibels; null where nothing was lost. */
  readonly sqnr: number | null;
}

/** What an observer's range makes of an input: one range for all of it. */
export interface ObserverError extends RoundingError {
  /** Its name: "percentile 99.9". */
  readonly observer: string;
  /** The range that it chose. */
  readonly range: Range;
  /** The same if each channel has the range that the observer chooses for it, which no product of bytes can use. */
  readonly perChannel: RoundingError;
}

/** What a channel holds. */
export interface ChannelRange {
  /** Which. */
  readonly channel: number;
  /** The least and the largest number in it. */
  readonly range: Range;
  /** The largest magnitude. */
  readonly magnitude: number;
}

/** A channel beside the median one. */
export interface OutlierChannel extends ChannelRange {
  /** How many times the median channel's largest magnitude its own is. */
  readonly timesMedian: number;
}

/** What rounding does to the input of some layers. */
export interface InputReport {
  /** The layers; all read the same. */
  readonly layers: readonly string[];
  /** The channel with the largest magnitude. */
  readonly outlier: OutlierChannel;
  /** How many channels are at least 4 times as large as the median one. */
  readonly outlying: number;
  /** Those channels, the largest first, at most 12. */
  readonly outliers: readonly OutlierChannel[];
  /** The channel whose magnitude is the median of all. */
  readonly median: ChannelRange;
  /** By observers. */
  readonly observers: readonly ObserverError[];
  /** The ratio in decibels if each token has a scale of its own, as with dynamic activations; null where nothing was lost. */
  readonly perToken: number | null;
}

/** Numbers, their squared errors, and how many were clipped. */
class Sums {
  #noise = 0;
  #clipped = 0;

  /** Rounds numbers over a range. */
  add(numbers: Float32Array, range: Range, kind: ActivationKind): void {
    const scheme = byteScheme(kind);
    const { scale, zero } = affineParameters(range, scheme);
    const { least, most } = levelsOf(scheme);
    const [low, high] = [least - zero, most - zero];
    let [noise, clipped] = [0, 0];
    for (let i = 0; i < numbers.length; i++) {
      const x = numbers[i];
      const q = roundHalfEven(x / scale);
      const error = x - (q < low ? low : q > high ? high : q) * scale;
      noise += error * error;
      if (x < range.low || x > range.high) clipped++;
    }
    this.#noise += noise;
    this.#clipped += clipped;
  }

  of(signal: number, total: number): RoundingError {
    return {
      clipped: this.#clipped / total,
      meanSquaredError: this.#noise / total,
      sqnr: decibels(signal, this.#noise),
    };
  }
}

const decibels = (signal: number, noise: number) =>
  noise === 0 ? null : 10 * Math.log10(signal / noise);

/** The numbers of a channel, window by window: those are batches to an observer. */
function channelOf(windows: readonly Float32Array[], width: number, channel: number) {
  return windows.map((numbers) => {
    const own = new Float32Array(numbers.length / width);
    for (let i = 0; i < own.length; i++) own[i] = numbers[i * width + channel];
    return own;
  });
}

/** The squared errors if each token has the scale `absmax / 127`. */
function tokenNoise(numbers: Float32Array, width: number): number {
  let noise = 0;
  for (let row = 0; row < numbers.length; row += width) {
    let most = 0;
    for (let c = 0; c < width; c++) most = Math.max(most, Math.abs(numbers[row + c]));
    const scale = most / 127;
    if (scale === 0) continue;
    for (let c = 0; c < width; c++) {
      const x = numbers[row + c];
      noise += (x - roundHalfEven(x / scale) * scale) ** 2;
    }
  }
  return noise;
}

/** The channel whose magnitude is the median of all: of an even number the lower of the two. */
export function medianChannel(magnitudes: ArrayLike<number>): number {
  const order = Array.from(magnitudes, (_, channel) => channel);
  order.sort((a, b) => magnitudes[a] - magnitudes[b] || b - a);
  return order[(order.length - 1) >> 1];
}

/** How many times the median channel's a magnitude is: 0 for 0, even where the median is 0 too. */
export function timesMedian(magnitude: number, median: number): number {
  return magnitude === 0 ? 0 : magnitude / median;
}

/** The outlying channels, and the median one. */
function outliersOf(channels: readonly ChannelRange[]) {
  const median = channels[medianChannel(channels.map(({ magnitude }) => magnitude))];
  const named = channels
    .map((own) => ({ ...own, timesMedian: timesMedian(own.magnitude, median.magnitude) }))
    .sort((a, b) => b.magnitude - a.magnitude || a.channel - b.channel);
  const all = named.filter(({ timesMedian }) => timesMedian >= OUTLYING);
  const outliers = all.slice(0, MOST_NAMED);
  return { outlier: named[0], outlying: all.length, outliers, median };
}

/**
 * Rounds what some layers read by every observer.
 *
 * @param statistics of what they read
 * @param windows the numbers themselves, each f32 [tokens, channels]
 * @param kind whether ranges are symmetric
 */
export function inputErrors(
  statistics: InputStatistics,
  windows: readonly Float32Array[],
  kind: ActivationKind,
): InputReport {
  const { paths, channels: { length: width }, histogram: { total } } = statistics;
  const scheme = byteScheme(kind);
  const grids = [...REPORTED].map(([observer, options]) => ({
    ...{ observer, options },
    range: statistics.range(options, scheme),
    whole: new Sums(),
    each: new Sums(),
  }));
  const channels: ChannelRange[] = [];
  let [signal, noise] = [0, 0];
  for (let channel = 0; channel < width; channel++) {
    const batches = channelOf(windows, width, channel);
    const own = new InputStatistics(paths, 1, CHANNEL_BINS);
    for (const batch of batches) own.add(batch);
    const { low, high } = own.histogram;
    channels.push({ channel, range: { low, high }, magnitude: own.channels[0] });
    const ranges = grids.map(({ options }) => own.range(options, scheme));
    for (const batch of batches) {
      for (const x of batch) signal += x * x;
      grids.forEach(({ range, whole, each }, i) => {
        whole.add(batch, range, kind);
        each.add(batch, ranges[i], kind);
      });
    }
  }
  for (const numbers of windows) noise += tokenNoise(numbers, width);
  return {
    layers: paths,
    ...outliersOf(channels),
    observers: grids.map(({ observer, range, whole, each }) => ({
      ...{ observer, range },
      ...whole.of(signal, total),
      perChannel: each.of(signal, total),
    })),
    perToken: decibels(signal, noise),
  };
}
