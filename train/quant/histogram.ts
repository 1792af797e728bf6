/**
 * A histogram that grows with what it sees.
 *
 * @module
 */

/** Bins in use at most, where nothing else is said. */
const MOST_BINS = 8192;

/**
 * Counts in bins of one width, whose edges are multiples of it. When the numbers outgrow the bins, the width doubles and pairs of
 * bins become one: no count is ever shared out between bins by guess, so one pass gives what two would.
 */
export class Histogram {
  /** The least number seen; Infinity before any. */
  low = Infinity;
  /** The largest. */
  high = -Infinity;
  /** The width of a bin, a power of two. */
  width = 0;
  /** How many numbers were seen. */
  total = 0;
  readonly #most: number;
  #first = 0;
  #counts: Float64Array = new Float64Array(0);

  /** With so many bins at most; finer ones than there are numbers say nothing. */
  constructor(mostBins: number = MOST_BINS) {
    this.#most = mostBins;
  }

  /** The bins from the least to the largest number: the centre and the count of each that is not empty. */
  *bins(): Generator<{ readonly centre: number; readonly count: number }> {
    for (const [i, count] of this.#counts.entries()) {
      if (count > 0) yield { centre: (this.#first + i + 0.5) * this.width, count };
    }
  }

  /** The same as two lists. */
  filled(): { readonly centres: Float64Array; readonly counts: Float64Array } {
    const counts = this.#counts.filter((count) => count > 0);
    const centres = new Float64Array(counts.length);
    let at = 0;
    for (let i = 0; i < this.#counts.length; i++) {
      if (this.#counts[i] > 0) centres[at++] = (this.#first + i + 0.5) * this.width;
    }
    return { centres, counts };
  }

  /** Counts of the magnitudes `|x|` in bins `[i · width, (i + 1) · width)`. */
  magnitudes(): Float64Array {
    const last = this.#first + this.#counts.length - 1;
    const out = new Float64Array(Math.max(last + 1, -this.#first));
    for (const [i, count] of this.#counts.entries()) {
      const bin = this.#first + i;
      out[bin < 0 ? -1 - bin : bin] += count;
    }
    return out;
  }

  /** Counts a batch of finite numbers. */
  add(numbers: Float32Array): void {
    if (numbers.length === 0) return;
    // Locals, and loops over indices: some hundred million numbers go through here.
    let { low, high } = this;
    for (let i = 0; i < numbers.length; i++) {
      const x = numbers[i];
      if (x < low) low = x;
      if (x > high) high = x;
    }
    this.low = low;
    this.high = high;
    this.#cover();
    const [counts, first, inverse] = [this.#counts, this.#first, 1 / this.width]; // a power of two
    for (let i = 0; i < numbers.length; i++) counts[Math.floor(numbers[i] * inverse) - first]++;
    this.total += numbers.length;
  }

  /** Makes room for everything between `low` and `high`. */
  #cover(): void {
    const { low, high } = this;
    const span = Math.max(high - low, 2 ** -100, Math.max(-low, high) * 2 ** -20);
    let width = this.width || 2 ** Math.floor(Math.log2(span / this.#most));
    let first = Math.floor(low / width);
    let last = Math.floor(high / width);
    while (last - first + 1 > this.#most) {
      width *= 2;
      first = Math.floor(low / width);
      last = Math.floor(high / width);
    }
    const counts = new Float64Array(last - first + 1);
    const merged = this.width ? width / this.width : 1;
    for (const [i, count] of this.#counts.entries()) {
      if (count > 0) counts[Math.floor((this.#first + i) / merged) - first] += count;
    }
    this.width = width;
    this.#first = first;
    this.#counts = counts;
  }
}
