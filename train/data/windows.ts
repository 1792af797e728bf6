/**
 * Windows: a long text in pieces that a model reads one at a time.
 *
 * @module
 */
import { IGNORED, type Sequence } from "./dataset.ts";

/** What is said of a model's context here. */
interface Context {
  /** The positions that the model has. */
  readonly contextLength: number;
}

/**
 * Windows are so long where nobody says how long, or as long as the model's context if that is less. A whole text is `read` in few
 * long ones; one on which models are `compared` is cut into more, as intervals come from the spread over windows; one that is
 * `trained` on makes rows as long as those of short examples, packed.
 */
const LENGTHS = { read: 1024, calibrate: 512, compare: 256, train: 256 } as const;

/** What a text is cut into windows for. */
export type WindowUse = keyof typeof LENGTHS;

/** Tokens of a window where nobody says how many. */
export function defaultWindow({ contextLength }: Context, use: WindowUse): number {
  return Math.min(contextLength, LENGTHS[use]);
}

/**
 * Throws unless a model has the positions for windows of that length.
 *
 * @param what what is done in them, such as `calibrate`
 * @throws {RangeError} if the length is no whole number from 2 to the model's context
 */
export function checkWindow({ contextLength }: Context, window: number, what: string): void {
  if (Number.isSafeInteger(window) && window >= 2 && window <= contextLength) return;
  throw new RangeError(
    `Cannot ${what} in windows of ${window} tokens: wanted a whole number from 2 to ${contextLength}, ` +
      "the model's context; choose such a window, or leave it out",
  );
}

/** Windows side by side, each on its own: a token's label is the next one in its window. The last may be shorter. */
export function windowsOf(ids: ArrayLike<number>, window: number): Sequence[] {
  const all = Int32Array.from(ids);
  const windows: Sequence[] = [];
  for (let from = 0; from + 1 < all.length; from += window) {
    const own = all.slice(from, from + window);
    const labels = new Int32Array(own.length).fill(IGNORED);
    labels.set(own.subarray(1));
    windows.push({ ids: own, labels });
  }
  return windows;
}
