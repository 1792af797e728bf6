/**
 * The specification of log_step.ts.
 *
 * @module
 */

/** `base · e^x`. */
export function logStepRef(base: ArrayLike<number>, x: ArrayLike<number>): number[] {
  return Array.from(base, (step, i) => step * Math.exp(x[i]));
}
