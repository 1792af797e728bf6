/**
 * The specification of batch_norm.ts.
 *
 * @module
 */

/** One number for each channel. */
export interface Statistics {
  readonly mean: ArrayLike<number>;
  /** Divided by the number of rows. */
  readonly variance: ArrayLike<number>;
}

/** Mean and variance of each channel of x [rows, channels]. */
export function batchStatisticsRef(x: ArrayLike<number>, channels: number): Statistics {
  const rows = x.length / channels;
  const mean = new Float64Array(channels);
  const variance = new Float64Array(channels);
  for (let c = 0; c < channels; c++) {
    for (let r = 0; r < rows; r++) mean[c] += x[r * channels + c] / rows;
    for (let r = 0; r < rows; r++) variance[c] += (x[r * channels + c] - mean[c]) ** 2 / rows;
  }
  return { mean, variance };
}

/** `(x − mean) / √(variance + ε) · gain + bias`, by default with the batch's own statistics. */
export function batchNormRef(
  x: ArrayLike<number>,
  gain: ArrayLike<number>,
  bias: ArrayLike<number>,
  { mean, variance }: Statistics = batchStatisticsRef(x, gain.length),
  epsilon = 1e-5,
): Float64Array {
  return Float64Array.from(x, (value, i) => {
    const c = i % gain.length;
    return (value - mean[c]) / Math.sqrt(variance[c] + epsilon) * gain[c] + bias[c];
  });
}
