/**
 * Ranges chosen from histograms: by percentile, by squared error, by entropy.
 *
 * @module
 */
import {
  affineParameters,
  type AffineScheme,
  levelsOf,
  type Range,
} from "../../kernels/quant/affine.ts";
import { roundHalfEven } from "../../kernels/quant/rounding.ts";
import type { Histogram } from "./histogram.ts";

/**
 * Clips what lies outside so many percent of the numbers. A symmetric range cuts the largest magnitudes, an asymmetric one half
 * of the rest on each side; neither is ever wider than what was seen.
 */
export function percentileRange(
  histogram: Histogram,
  percentile: number,
  symmetric: boolean,
): Range {
  const { low, high, width, total } = histogram;
  const outside = total * (1 - percentile / 100);
  if (symmetric) {
    const counts = histogram.magnitudes();
    let cut = 0;
    let bin = counts.length - 1;
    while (bin > 0 && cut + counts[bin] <= outside) cut += counts[bin--];
    const most = Math.min((bin + 1) * width, Math.max(-low, high));
    return { low: Math.max(low, -most), high: Math.min(high, most) };
  }
  const bins = [...histogram.bins()];
  const edge = (order: typeof bins) => {
    let cut = 0;
    for (const { centre, count } of order) {
      if (cut + count > outside / 2) return centre;
      cut += count;
    }
    return order[order.length - 1].centre;
  };
  return {
    low: Math.max(low, edge(bins) - width / 2),
    high: Math.min(high, edge(bins.toReversed()) + width / 2),
  };
}

/** Candidates of a search: shares of the full range. */
const STEPS = 100;

function shrunk({ low, high }: Range, share: number): Range {
  return { low: low * share, high: high * share };
}

/** The squared error of numbers, so many of each, if they are quantized over a range. */
function squaredError(
  { centres, counts }: ReturnType<Histogram["filled"]>,
  range: Range,
  scheme: AffineScheme,
): number {
  const { least, most } = levelsOf(scheme);
  const { scale, zero } = affineParameters(range, scheme);
  const [low, high] = [least - zero, most - zero];
  let error = 0;
  for (let i = 0; i < centres.length; i++) {
    const x = centres[i];
    const q = roundHalfEven(x / scale);
    error += counts[i] * ((q < low ? low : q > high ? high : q) * scale - x) ** 2;
  }
  return error;
}

/** The share of the full range, in steps of a hundredth, whose squared error is least; of equals, the widest. */
export function searchedRange(histogram: Histogram, scheme: AffineScheme): Range {
  const filled = histogram.filled();
  let best = { range: shrunk(histogram, 1), error: Infinity };
  for (let step = STEPS; step > 0; step--) {
    const range = shrunk(histogram, step / STEPS);
    const error = squaredError(filled, range, scheme);
    if (error < best.error) best = { range, error };
  }
  return best.range;
}

/** Sums of the counts before each bin, of `p · log p`, and of how many are above 0. */
function runningSums(counts: Float64Array) {
  const make = () => new Float64Array(counts.length + 1);
  const [sums, logs, occupied] = [make(), make(), make()];
  for (let i = 0; i < counts.length; i++) {
    const p = counts[i];
    sums[i + 1] = sums[i] + p;
    logs[i + 1] = logs[i] + (p > 0 ? p * Math.log(p) : 0);
    occupied[i + 1] = occupied[i] + (p > 0 ? 1 : 0);
  }
  return { sums, logs, occupied };
}

/**
 * The Kullback-Leibler divergence, times the number of numbers, of q from p. p is the first `bins` counts with all behind in the last
 * one; q is the same without those, spread evenly over the occupied bins of each of `levels` groups. Where q has none and p some,
 * it is as if q had a millionth.
 */
function divergence(
  counts: Float64Array,
  { sums, logs, occupied }: ReturnType<typeof runningSums>,
  bins: number,
  levels: number,
): number {
  // Σ p log p over all but the last bin, less Σ p log q, where q is the same for a whole group.
  const last = bins - 1;
  let value = logs[last];
  let spread = 0;
  for (let level = 0; level < levels; level++) {
    const from = Math.floor(level * bins / levels);
    const to = Math.floor((level + 1) * bins / levels);
    const filled = occupied[to] - occupied[from];
    if (filled === 0) continue;
    spread = (sums[to] - sums[from]) / filled;
    value -= (sums[Math.min(to, last)] - sums[from]) * Math.log(spread);
  }
  const p = sums[counts.length] - sums[last];
  const q = counts[last] > 0 ? spread : 1e-6;
  return p > 0 ? value + p * Math.log(p / q) : value;
}

/**
 * Clips magnitudes where the quantized distribution keeps most of the information: the method of TensorRT's calibration (Migacz,
 * "8-bit inference with TensorRT", 2017). Of each candidate the clipped counts are put into its last bin, and the bins are merged
 * into as many levels as there are magnitudes.
 */
export function entropyRange(histogram: Histogram, scheme: AffineScheme): Range {
  const { least, most } = levelsOf(scheme);
  const levels = Math.ceil((most - least + 1) / 2);
  const counts = histogram.magnitudes();
  const { low, high, width } = histogram;
  const running = runningSums(counts);
  const stride = Math.max(1, Math.floor(counts.length / 256));
  let best = { bins: counts.length, value: Infinity };
  for (let bins = counts.length; bins >= levels; bins -= stride) {
    const value = divergence(counts, running, bins, levels);
    if (value < best.value) best = { bins, value };
  }
  const edge = best.bins * width;
  return { low: Math.max(low, -edge), high: Math.min(high, edge) };
}
