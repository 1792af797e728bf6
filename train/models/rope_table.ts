/**
 * The angles of rotary position embedding.
 *
 * @module
 */

/** Which angles a table holds. */
export interface RopeTableOptions {
  /** Width of a head, even. */
  readonly headSize: number;
  /** The base of the wave lengths: 10,000 in the paper. */
  readonly theta: number;
  /** How many positions. */
  readonly length: number;
}

/**
 * Cosines and sines for `rope`: f32 [length, headSize], for each position headSize/2 cosines and then headSize/2 sines of
 * `position · theta^(−2j/headSize)`. Every step is rounded to float32, as PyTorch does it in transformers.
 *
 * @throws {RangeError} if `headSize` is odd or a number is not above 0
 *
 * @example
 * ```ts
 * import { ropeTable } from "@nibble/nibble";
 *
 * console.log(ropeTable({ headSize: 4, theta: 10000, length: 1 })); // Float32Array(4) [ 1, 1, 0, 0 ]
 * ```
 */
export function ropeTable({ headSize, theta, length }: RopeTableOptions): Float32Array {
  if (!(headSize > 0 && headSize % 2 === 0 && theta > 0 && length > 0)) {
    throw new RangeError(
      `Cannot make angles for heads of ${headSize}, base ${theta} and ${length} positions: ` +
        "wanted an even size, and numbers above 0",
    );
  }
  const half = headSize / 2;
  const { fround } = Math;
  const table = new Float32Array(length * headSize);
  for (let j = 0; j < half; j++) {
    const frequency = fround(1 / fround(theta ** fround(2 * j / headSize)));
    for (let position = 0; position < length; position++) {
      const angle = fround(position * frequency);
      table[position * headSize + j] = Math.cos(angle);
      table[position * headSize + half + j] = Math.sin(angle);
    }
  }
  return table;
}
