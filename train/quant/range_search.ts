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

/** The mean squared error of a histogram's numbers if they are quantized over a range. */
export function squaredError(histogram: Histogram, range: Range, scheme: AffineScheme): number {
  const { least, most } = levelsOf(scheme);
  const { scale, zero } = affineParameters(range, scheme);
  let error = 0;
  for (const { centre, count } of histogram.bins()) {
    const q = Math.max(least, Math.min(most, roundHalfEven(centre / scale) + zero));
    error += count * ((q - zero) * scale - centre) ** 2;
  }
  return error / histogram.total;
}

/** The share of the full range, in steps of a hundredth, whose squared error is least; of equals, the widest. */
export function searchedRange(histogram: Histogram, scheme: AffineScheme): Range {
  let best = { range: shrunk(histogram, 1), error: Infinity };
  for (let step = STEPS; step > 0; step--) {
    const range = shrunk(histogram, step / STEPS);
    const error = squaredError(histogram, range, scheme);
    if (error < best.error) best = { range, error };
  }
  return best.range;
}

/** The Kullback-Leibler divergence of q from p, both counts; where q has none and p some, it is as if q had a millionth. */
function divergence(p: Float64Array, q: Float64Array, total: number): number {
  let sum = 0;
  for (let i = 0; i < p.length; i++) {
    if (p[i] > 0) sum += p[i] / total * Math.log(p[i] / Math.max(q[i], 1e-6));
  }
  return sum;
}

/** Counts in `bins` bins, spread evenly over the occupied ones of each of `levels` groups. */
function spread(counts: Float64Array, levels: number): Float64Array {
  const out = new Float64Array(counts.length);
  for (let level = 0; level < levels; level++) {
    const from = Math.floor(level * counts.length / levels);
    const to = Math.floor((level + 1) * counts.length / levels);
    let [sum, occupied] = [0, 0];
    for (let i = from; i < to; i++) {
      sum += counts[i];
      if (counts[i] > 0) occupied++;
    }
    for (let i = from; i < to; i++) if (counts[i] > 0) out[i] = sum / occupied;
  }
  return out;
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
  const { low, high, width, total } = histogram;
  const stride = Math.max(1, Math.floor(counts.length / 256));
  let best = { bins: counts.length, value: Infinity };
  for (let bins = counts.length; bins >= levels; bins -= stride) {
    const inside = counts.slice(0, bins);
    const q = spread(inside, levels);
    let clipped = 0;
    for (let i = bins; i < counts.length; i++) clipped += counts[i];
    inside[bins - 1] += clipped;
    const value = divergence(inside, q, total);
    if (value < best.value) best = { bins, value };
  }
  const edge = best.bins * width;
  return { low: Math.max(low, -edge), high: Math.min(high, edge) };
}
