/**
 * Progress of an evaluation.
 *
 * @module
 */
import type { EvaluationProgress } from "../train/eval/score.ts";
import { type Progress, progress } from "./progress.ts";

/** Shows progress in tokens. The bar appears at the first news, since only then it is known how many there are. */
export class EvaluationBar implements Disposable {
  readonly #label: string;
  readonly #json: boolean;
  #bar: Progress | null = null;

  constructor(label: string, json = false) {
    this.#label = label;
    this.#json = json;
  }

  /** To be passed on as `onProgress`. */
  readonly update: EvaluationProgress = (done, total) => {
    this.#bar ??= progress({ total, label: this.#label, json: this.#json });
    this.#bar.update(done);
  };

  [Symbol.dispose](): void {
    this.#bar?.stop();
  }
}
