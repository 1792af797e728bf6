/**
 * Progress of work whose size is not known before it runs.
 *
 * @module
 */
import { type Progress, progress, type ProgressOptions, type ProgressValues } from "./progress.ts";

/** A bar that appears at the first news, which says how much there is to do. */
export class LateBar implements Disposable {
  readonly #options: Omit<ProgressOptions, "total">;
  #bar: Progress | null = null;

  /** Shows nothing yet. */
  constructor(options: Omit<ProgressOptions, "total">) {
    this.#options = options;
  }

  /** Says how much is done so far of how much; may be passed on as it is. */
  readonly update = (done: number, total: number, values?: ProgressValues): void => {
    this.#bar ??= progress({ ...this.#options, total });
    this.#bar.update(done, values);
  };

  /** Ends the bar, if there is one. */
  stop(): void {
    this.#bar?.stop();
  }

  [Symbol.dispose](): void {
    this.stop();
  }
}
