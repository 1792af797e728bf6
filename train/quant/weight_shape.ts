/**
 * How the weights of a layer are spread: why few bits do for most of them, and why some stand out.
 *
 * @module
 */

/** What share of numbers that are normally distributed lies within one, two and three deviations of their mean. */
export const NORMAL_WITHIN: readonly [number, number, number] = [0.6827, 0.9545, 0.9973];

/** A histogram reaches so many deviations to each side, in so many bins; what lies beyond is in the outermost ones. */
const REACH = 4;
const BINS = 32;

/** How weights are spread. Several matrices may be taken together: each counts by its own deviation. */
export interface WeightShape {
  /** Matrices. */
  readonly matrices: number;
  /** Numbers in them. */
  readonly weights: number;
  /** The mean of the matrices' deviations. */
  readonly deviation: number;
  /** The largest magnitude, in deviations of its matrix. */
  readonly largest: number;
  /** Shares of the numbers within one, two and three deviations of the mean. */
  readonly within: readonly [number, number, number];
  /** `Σ ((x − mean) / deviation)⁴ / n − 3`: 0 for a normal distribution, more where there are outliers. */
  readonly excessKurtosis: number;
  /** Shares of the numbers in 32 bins, from −4 deviations to 4; those beyond are in the outermost ones. */
  readonly histogram: readonly number[];
}

/** Takes matrices one after the other. */
export class WeightShapes {
  #matrices = 0;
  #weights = 0;
  #deviations = 0;
  #largest = 0;
  #fourth = 0;
  readonly #within = [0, 0, 0];
  readonly #bins = new Float64Array(BINS);

  /**
   * Takes a matrix's numbers.
   *
   * @throws {RangeError} if one is NaN or infinite
   */
  add(numbers: Float32Array): void {
    const { length } = numbers;
    let sum = 0;
    for (const x of numbers) sum += x;
    if (!Number.isFinite(sum)) {
      const wrong = numbers.findIndex((x) => !Number.isFinite(x));
      throw new RangeError(
        `Cannot describe weights: number ${wrong} is ${numbers[wrong]}, wanted finite ones`,
      );
    }
    const mean = sum / length;
    let squares = 0;
    for (const x of numbers) squares += (x - mean) ** 2;
    const deviation = Math.sqrt(squares / length);
    this.#matrices++;
    this.#weights += length;
    this.#deviations += deviation;
    for (const x of numbers) this.#count(deviation === 0 ? 0 : (x - mean) / deviation);
  }

  #count(z: number): void {
    const size = Math.abs(z);
    if (size > this.#largest) this.#largest = size;
    this.#fourth += z ** 4;
    for (let k = 0; k < 3; k++) if (size <= k + 1) this.#within[k]++;
    const bin = Math.floor((z + REACH) / (2 * REACH) * BINS);
    this.#bins[Math.max(0, Math.min(BINS - 1, bin))]++;
  }

  /** What was found; throws a RangeError if nothing was taken. */
  report(): WeightShape {
    if (this.#weights === 0) throw new RangeError("Cannot describe weights: there are none");
    const share = (count: number) => count / this.#weights;
    const [one, two, three] = this.#within.map(share);
    return {
      matrices: this.#matrices,
      weights: this.#weights,
      deviation: this.#deviations / this.#matrices,
      largest: this.#largest,
      within: [one, two, three],
      excessKurtosis: share(this.#fourth) - 3,
      histogram: Array.from(this.#bins, share),
    };
  }
}

/**
 * How numbers are spread.
 *
 * @param numbers at least one; finite
 * @throws {RangeError} if there are none, or one is NaN or infinite
 *
 * @example
 * ```ts
 * import { describeWeights, Random } from "@nibble/nibble";
 *
 * const random = new Random(1);
 * const { within, largest } = describeWeights(Float32Array.from({ length: 10_000 }, () => random.normal()));
 * console.log(within, largest); // about 0.68, 0.95, 1.00, and 4
 * ```
 */
export function describeWeights(numbers: Float32Array): WeightShape {
  const shapes = new WeightShapes();
  shapes.add(numbers);
  return shapes.report();
}
