/**
 * The range that PyTorch's HistogramObserver chooses (torch/ao/quantization/observer.py, the method of L2 error minimization).
 *
 * @module
 */
import { type AffineScheme, levelsOf, type Range } from "../../kernels/quant/affine.ts";

const BINS = 2048;

/** A share of the numbers that is cut off at a time. */
const STEP = 1e-5;

/** The integral of `density · x²` from `from` to `to`. */
function secondMoment(from: number, to: number, density: number): number {
  return density * (to ** 3 - from ** 3) / 3;
}

/** The squared error if bins `start` to `end` are spread over `levels` levels, and what lies outside goes to the nearest. */
function errorOf(
  counts: Float64Array,
  width: number,
  start: number,
  end: number,
  levels: number,
): number {
  const step = width * (end - start + 1) / levels;
  if (step === 0) return 0;
  const levelAt = (x: number) => Math.max(0, Math.min(levels - 1, Math.floor(x / step)));
  let error = 0;
  for (let bin = 0; bin < counts.length; bin++) {
    if (counts[bin] === 0) continue;
    const density = counts[bin] / width;
    const from = (bin - start) * width;
    const to = from + width;
    const [first, last] = [levelAt(from), levelAt(to)];
    error += secondMoment(from - (first + 0.5) * step, step / 2, density);
    error += (last - first - 1) * secondMoment(-step / 2, step / 2, density);
    error += secondMoment(-step / 2, to - (last + 0.5) * step, density);
  }
  return error;
}

/**
 * Cuts quantiles of 1e-5 off, on the side where that removes more bins, until the estimated squared error rises.
 *
 * @param numbers all that was seen
 * @param range its least and largest number, which differ
 * @param scheme the whole numbers
 */
export function torchHistogramRange(
  numbers: Float32Array,
  { low, high }: Range,
  scheme: AffineScheme,
): Range {
  const { least, most } = levelsOf(scheme);
  const width = (high - low) / BINS;
  const counts = new Float64Array(BINS);
  for (const x of numbers) counts[Math.min(BINS - 1, Math.floor((x - low) / width))]++;
  const sums = counts.slice();
  for (let i = 1; i < BINS; i++) sums[i] += sums[i - 1];
  const total = sums[BINS - 1];
  let [below, above, start, end] = [0, 1, 0, BINS - 1];
  let best = Infinity;
  while (below < above) {
    let [left, right] = [start, end];
    while (left < end && sums[left] < (below + STEP) * total) left++;
    while (right > start && sums[right] > (above - STEP) * total) right--;
    let [nextStart, nextEnd] = [start, end];
    if (left - start > end - right) {
      nextStart = left;
      below += STEP;
    } else {
      nextEnd = right;
      above -= STEP;
    }
    if (nextStart === start && nextEnd === end) continue;
    const error = errorOf(counts, width, nextStart, nextEnd, most - least + 1);
    if (error > best) break;
    [best, start, end] = [error, nextStart, nextEnd];
  }
  return { low: low + width * start, high: low + width * (end + 1) };
}
