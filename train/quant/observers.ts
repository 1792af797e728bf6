/**
 * Observers: they look at numbers, batch by batch, and say which range of them whole numbers should cover.
 *
 * @module
 */
import type { AffineScheme, Range } from "../../kernels/quant/affine.ts";
import { Histogram } from "./histogram.ts";
import { entropyRange, percentileRange, searchedRange } from "./range_search.ts";
import { torchHistogramRange } from "./torch_histogram.ts";

/** How a range is chosen. */
export type ObserverOptions =
  /** The least and the largest number seen. */
  | { readonly kind: "min-max" }
  /** A running mean of each batch's least and largest: `m + momentum · (batch − m)`; momentum is 0.01 by default. */
  | { readonly kind: "moving-average"; readonly momentum?: number }
  /** What lies outside `percentile` percent of the numbers is clipped, half of it on each side; 99.99 by default. */
  | { readonly kind: "percentile"; readonly percentile?: number }
  /** The range, of 100 steps, whose rounding and clipping errors have the least mean square. */
  | { readonly kind: "mse" }
  /** The clipping whose quantized distribution has the least Kullback-Leibler divergence from the original one. */
  | { readonly kind: "entropy" }
  /** PyTorch's HistogramObserver: quantiles are cut off step by step as long as the estimated error falls. */
  | { readonly kind: "histogram" };

/** Looks at numbers and chooses a range. */
export interface Observer {
  /** Looks at a batch. */
  observe(numbers: Float32Array): void;
  /** The range so far; throws a RangeError if nothing was seen. */
  range(): Range;
}

/** The least and the largest of numbers, which must be finite. */
function extremes(numbers: Float32Array): Range {
  let [low, high] = [Infinity, -Infinity];
  for (let i = 0; i < numbers.length; i++) {
    const x = numbers[i];
    if (!Number.isFinite(x)) {
      throw new RangeError(
        `Cannot observe numbers: element ${i} is ${x}, wanted finite numbers; ` +
          "a model that gives such activations is broken before it is quantized",
      );
    }
    if (x < low) low = x;
    if (x > high) high = x;
  }
  return { low, high };
}

class MinMaxObserver implements Observer {
  #low = Infinity;
  #high = -Infinity;

  observe(numbers: Float32Array): void {
    const { low, high } = extremes(numbers);
    this.#low = Math.min(this.#low, low);
    this.#high = Math.max(this.#high, high);
  }

  range(): Range {
    return seen({ low: this.#low, high: this.#high });
  }
}

class MovingAverageObserver implements Observer {
  readonly #momentum: number;
  #range: Range | null = null;

  constructor(momentum: number) {
    if (!(momentum > 0 && momentum <= 1)) {
      throw new RangeError(
        `Cannot average with a momentum of ${momentum}: wanted above 0, at most 1`,
      );
    }
    this.#momentum = momentum;
  }

  observe(numbers: Float32Array): void {
    if (numbers.length === 0) return;
    const batch = extremes(numbers);
    const { fround } = Math;
    const follow = (m: number, x: number) =>
      fround(m + fround(fround(this.#momentum) * fround(x - m)));
    this.#range = this.#range
      ? { low: follow(this.#range.low, batch.low), high: follow(this.#range.high, batch.high) }
      : batch;
  }

  range(): Range {
    return seen(this.#range ?? { low: Infinity, high: -Infinity });
  }
}

/** An observer whose range comes from a histogram of all that was seen. */
class HistogramObserver implements Observer {
  readonly #histogram = new Histogram();
  readonly #choose: (histogram: Histogram) => Range;

  constructor(choose: (histogram: Histogram) => Range) {
    this.#choose = choose;
  }

  observe(numbers: Float32Array): void {
    extremes(numbers);
    this.#histogram.add(numbers);
  }

  range(): Range {
    const { low, high } = this.#histogram;
    seen({ low, high });
    return low === high ? { low, high } : this.#choose(this.#histogram);
  }
}

/** PyTorch's histogram has its bins between the least and the largest number of its first batch, so all numbers are kept. */
class TorchHistogramObserver implements Observer {
  readonly #batches: Float32Array[] = [];
  readonly #scheme: AffineScheme;

  constructor(scheme: AffineScheme) {
    this.#scheme = scheme;
  }

  observe(numbers: Float32Array): void {
    extremes(numbers);
    this.#batches.push(numbers.slice());
  }

  range(): Range {
    const all = this.#batches.length === 1 ? this.#batches[0] : joined(this.#batches);
    const { low, high } = seen(extremes(all));
    return low === high ? { low, high } : torchHistogramRange(all, { low, high }, this.#scheme);
  }
}

function joined(parts: readonly Float32Array[]): Float32Array {
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

function seen(range: Range): Range {
  if (range.low <= range.high) return range;
  throw new RangeError("Cannot choose a range: nothing was observed; run some text through first");
}

/**
 * Makes an observer.
 *
 * @param options how it chooses
 * @param scheme what its range is for: some observers weigh the rounding of these whole numbers
 * @throws {RangeError} if an option makes no sense
 *
 * @example An outlier, clipped
 * ```ts
 * import { createObserver } from "@nibble/nibble";
 *
 * const observer = createObserver({ kind: "percentile", percentile: 99 }, { bits: 8, kind: "symmetric" });
 * observer.observe(Float32Array.from({ length: 1000 }, (_, i) => i === 7 ? 50 : Math.sin(i)));
 * console.log(observer.range().high < 1.1); // true
 * ```
 */
export function createObserver(options: ObserverOptions, scheme: AffineScheme): Observer {
  switch (options.kind) {
    case "min-max":
      return new MinMaxObserver();
    case "moving-average":
      return new MovingAverageObserver(options.momentum ?? 0.01);
    case "percentile": {
      const { percentile = 99.99 } = options;
      if (!(percentile > 0 && percentile <= 100)) {
        throw new RangeError(
          `Cannot clip at the percentile ${percentile}: wanted above 0, at most 100`,
        );
      }
      const symmetric = scheme.kind !== "asymmetric";
      return new HistogramObserver((h) => percentileRange(h, percentile, symmetric));
    }
    case "mse":
      return new HistogramObserver((h) => searchedRange(h, scheme));
    case "entropy":
      return new HistogramObserver((h) => entropyRange(h, scheme));
    case "histogram":
      return new TorchHistogramObserver(scheme);
    default:
      throw unknownObserver(options);
  }
}

/** The error about an observer that there is not: a name may come from a file. */
export function unknownObserver(options: { readonly kind?: unknown }): RangeError {
  return new RangeError(
    `Cannot observe by ${
      JSON.stringify(options.kind)
    }: wanted "min-max", "moving-average", "percentile", "mse", "entropy" or "histogram"`,
  );
}
