/**
 * Differences between two readings of the same text or examples, in pairs, with their 95 % intervals.
 *
 * @module
 */

/** What a model loses in a window. */
export interface WindowLoss {
  /** The sum of the losses. */
  readonly loss: number;
  /** How many there are. */
  readonly labels: number;
}

/** How many deviations of a mean its 95 % interval is wide to each side. */
const DEVIATIONS = 1.96;

/** The mean change of the loss of a label, and the half width of its interval, from the windows' spread; NaN with one window. */
export function lossChangeOf(
  before: readonly WindowLoss[],
  after: readonly WindowLoss[],
): { mean: number; interval: number } {
  const differences = before.map(({ loss, labels }, i) => (after[i].loss - loss) / labels);
  const n = differences.length;
  const labels = before.reduce((sum, own) => sum + own.labels, 0);
  const mean = differences.reduce((sum, d, i) => sum + d * before[i].labels, 0) / labels;
  const squares = differences.reduce((sum, d) => sum + (d - mean) ** 2, 0);
  return { mean, interval: n < 2 ? NaN : DEVIATIONS * Math.sqrt(squares / (n - 1) / n) };
}

/** What is right, and how that has changed. */
export interface Rightness {
  /** The share that is right. */
  readonly share: number;
  /** How much less that is than before. */
  readonly drop: number;
  /** The half width of the drop's interval. */
  readonly interval: number;
}

/**
 * The share of what is right, and how much less it is than before. The interval is Agresti and Min's for pairs (Statistics in
 * Medicine 24, 2005), which is not 0 where few pairs agree by chance; it is 0 where the two are the same reading.
 */
export function rightnessOf(before: readonly boolean[], after: readonly boolean[]): Rightness {
  const n = after.length;
  const lost = after.filter((own, i) => before[i] && !own).length;
  const won = after.filter((own, i) => own && !before[i]).length;
  const width = DEVIATIONS * Math.sqrt(lost + won + 1 - (lost - won) ** 2 / (n + 2)) / (n + 2);
  const share = after.filter(Boolean).length / n;
  return { share, drop: (lost - won) / n, interval: before === after ? 0 : width };
}
