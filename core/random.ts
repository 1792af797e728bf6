/**
 * Random numbers by counter: the same stream on the host and on the GPU (random.wgsl), and no state to carry but a count.
 *
 * @module
 */

const ROTATIONS = [13, 15, 26, 6, 17, 29, 16, 24];

/**
 * Threefry-2x32 with 20 rounds: 64 random bits from a 64-bit key and a 64-bit counter.
 * Salmon et al., "Parallel random numbers: as easy as 1, 2, 3" (SC 2011).
 */
export function threefry(
  key: readonly [number, number],
  counter: readonly [number, number],
): [number, number] {
  const k = [key[0] >>> 0, key[1] >>> 0, (key[0] ^ key[1] ^ 0x1bd11bda) >>> 0];
  let x = (counter[0] + k[0]) >>> 0;
  let y = (counter[1] + k[1]) >>> 0;
  for (let round = 0; round < 20; round++) {
    const turn = ROTATIONS[round & 7];
    x = (x + y) >>> 0;
    y = (((y << turn) | (y >>> (32 - turn))) ^ x) >>> 0;
    if ((round & 3) === 3) {
      const j = (round >> 2) + 1;
      x = (x + k[j % 3]) >>> 0;
      y = (y + k[(j + 1) % 3] + j) >>> 0;
    }
  }
  return [x, y];
}

/**
 * A seeded stream of random numbers. Two streams of one seed with different names are independent.
 *
 * @example
 * ```ts
 * import { Random } from "@nibble/nibble";
 *
 * const random = new Random(42);
 * console.log(random.permutation(5), random.uniform(-1, 1), random.normal());
 * ```
 */
export class Random {
  readonly #key: [number, number];
  #pair: [number, number] = [0, 0];
  #pairIndex = -1;
  /** How many words were drawn: set it to go on where a stream was left. */
  position = 0;

  /**
   * Starts a stream at its first word.
   *
   * @param seed a whole number; the same seed gives the same stream everywhere
   * @param stream which of the seed's streams, a whole number
   */
  constructor(seed: number, stream = 0) {
    if (!Number.isSafeInteger(seed) || !Number.isSafeInteger(stream)) {
      throw new RangeError(`Cannot seed with ${seed} and ${stream}: both must be whole numbers`);
    }
    this.#key = [(seed ^ Math.floor(seed / 2 ** 32)) >>> 0, stream >>> 0];
  }

  /** 32 random bits. */
  word(): number {
    const index = this.position++;
    const count = Math.floor(index / 2);
    if (count !== this.#pairIndex) {
      this.#pair = threefry(this.#key, [count >>> 0, Math.floor(count / 2 ** 32)]);
      this.#pairIndex = count;
    }
    return this.#pair[index % 2];
  }

  /** A number in [low, high), from 24 random bits. */
  uniform(low = 0, high = 1): number {
    return low + (high - low) * (this.word() >>> 8) * 2 ** -24;
  }

  /** A number from the normal distribution with mean 0 and deviation 1 (Box and Muller). */
  normal(): number {
    const radius = Math.sqrt(-2 * Math.log(1 - this.uniform()));
    return radius * Math.cos(2 * Math.PI * this.uniform());
  }

  /** A whole number in [0, below). */
  integer(below: number): number {
    return Math.floor(this.word() * 2 ** -32 * below);
  }

  /** The numbers 0 to n − 1 in random order (Fisher and Yates). */
  permutation(n: number): Uint32Array {
    const order = Uint32Array.from({ length: n }, (_, i) => i);
    for (let i = n - 1; i > 0; i--) {
      const j = this.integer(i + 1);
      [order[i], order[j]] = [order[j], order[i]];
    }
    return order;
  }
}
