/**
 * Real handwritten digits, which come with nibble: 1,797 pictures of 8 by 8 pixels. E. Alpaydin and C. Kaynak, "Optical Recognition of
 * Handwritten Digits" (UCI Machine Learning Repository, 1998; CC BY 4.0), in the file that scikit-learn has.
 *
 * @module
 */

/** Pixels on a side of a picture. */
export const SIDE = 8;

/** Kinds of digits. */
export const DIGITS = 10;

/** The largest value of a pixel in the file. */
const WHITE = 16;

/** So many pictures, in the order of the file, are there to learn from; the rest are for the test. */
const TRAINING = 1200;

/** Pictures and what they show. */
export interface DigitSet {
  /** f32 [count, 8, 8, 1]: 0 to 1. */
  readonly pixels: Float32Array<ArrayBuffer>;
  /** [count]: the digits. */
  readonly labels: Int32Array<ArrayBuffer>;
}

/** The pictures to learn from, and those to be asked about. */
export interface DigitData {
  /** The first 1,200 of the file. */
  readonly train: DigitSet;
  /** The last 597. The file is not shuffled, which makes this harder than a split at random. */
  readonly test: DigitSet;
}

/** Pictures from rows of 64 pixels and a label. */
function setOf(rows: readonly number[][]): DigitSet {
  return {
    pixels: Float32Array.from(rows.flatMap((row) => row.slice(0, -1)), (pixel) => pixel / WHITE),
    labels: Int32Array.from(rows, (row) => row.at(-1)!),
  };
}

/**
 * Reads the digits.
 *
 * @throws {RangeError} if the file is not what it should be
 *
 * @example
 * ```ts
 * import { loadDigits } from "@nibble/nibble";
 *
 * const { train, test } = await loadDigits();
 * console.log(train.labels.length, test.labels.length); // 1200 597
 * ```
 */
export async function loadDigits(): Promise<DigitData> {
  const response = await fetch(new URL("../../assets/digits/digits.csv.gz", import.meta.url));
  const text = await new Response(
    response.body!.pipeThrough(new DecompressionStream("gzip")),
  ).text();
  const rows = text.trim().split("\n").map((line) => line.split(",").map(Number));
  const wrong = rows.findIndex((row) =>
    row.length !== SIDE ** 2 + 1 || row.some((x) => !(x >= 0 && x <= WHITE))
  );
  if (wrong >= 0 || rows.length <= TRAINING) {
    throw new RangeError(
      `Cannot read digits.csv.gz: ${
        wrong >= 0 ? `line ${wrong + 1} is no picture` : `it has ${rows.length} lines`
      }; wanted 1,797 lines of 64 pixels and a label`,
    );
  }
  return { train: setOf(rows.slice(0, TRAINING)), test: setOf(rows.slice(TRAINING)) };
}
