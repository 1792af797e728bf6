/**
 * How the learning rate changes over a run.
 *
 * @module
 */

/** The shape of a schedule after its warm-up. */
export type ScheduleKind = "constant" | "linear" | "cosine";

/** A schedule of the learning rate. */
export interface ScheduleOptions {
  /** "cosine" falls to 0 along half a wave (Loshchilov and Hutter, arXiv 1608.03983), "linear" along a line. */
  readonly kind: ScheduleKind;
  /** Steps of the whole run. */
  readonly steps: number;
  /** Steps in which the rate rises from 0. */
  readonly warmup: number;
}

/**
 * The factor of the learning rate at a step, equal to that of transformers' `get_scheduler`.
 *
 * @param step how many steps were made before this one: 0 for the first
 * @param options the schedule
 * @returns 0 to 1
 *
 * @example
 * ```ts
 * import { scheduleFactor } from "@nibble/nibble";
 *
 * const rates = [0, 1, 2, 3].map((step) => scheduleFactor(step, { kind: "linear", steps: 4, warmup: 2 }));
 * console.log(rates); // [ 0, 0.5, 1, 0.5 ]
 * ```
 */
export function scheduleFactor(step: number, { kind, steps, warmup }: ScheduleOptions): number {
  if (step < warmup) return step / Math.max(1, warmup);
  const done = (step - warmup) / Math.max(1, steps - warmup);
  switch (kind) {
    case "constant":
      return 1;
    case "linear":
      return Math.max(0, 1 - done);
    case "cosine":
      return Math.max(0, 0.5 * (1 + Math.cos(Math.PI * done)));
    default:
      throw new RangeError(
        `Cannot schedule "${kind satisfies never}": wanted "constant", "linear" or "cosine"`,
      );
  }
}
