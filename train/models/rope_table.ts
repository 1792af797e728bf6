/**
 * The angles of rotary position embedding.
 *
 * @module
 */
import type { Llama3Rope, RopeScaling, YarnRope } from "../files/rope_config.ts";

/** Which angles a table holds. */
export interface RopeTableOptions {
  /** Width of a head, even. */
  readonly headSize: number;
  /** The base of the wave lengths: 10,000 in the paper. */
  readonly theta: number;
  /** How many positions. */
  readonly length: number;
  /** How they are stretched over longer texts; by default not. */
  readonly scaling?: RopeScaling | null;
}

const { fround } = Math;

/** `theta^(2j/headSize)`: the length of each wave, over 2π. */
function wavesOf(theta: number, headSize: number): Float32Array {
  const base = fround(theta);
  return Float32Array.from({ length: headSize / 2 }, (_, j) => base ** fround(2 * j / headSize));
}

/**
 * The base for a text of `length` tokens. PyTorch works in 64 bits here up to the trained context, where the result is the base
 * itself, and in 32 bits beyond.
 */
function dynamicBase(
  theta: number,
  headSize: number,
  length: number,
  { factor, originalLength }: { factor: number; originalLength: number },
): number {
  const power = headSize / (headSize - 2);
  if (length <= originalLength) return theta * (factor - (factor - 1)) ** power;
  const stretch = fround(fround(fround(fround(factor) * length) / originalLength) - (factor - 1));
  return fround(theta * fround(stretch ** power));
}

/** A frequency by Llama 3.1's rule. */
function llama3Frequency(frequency: number, scaling: Llama3Rope): number {
  const { factor, lowFrequency: low, highFrequency: high, originalLength } = scaling;
  const wave = fround(fround(2 * Math.PI) / frequency);
  if (wave > fround(originalLength / low)) return fround(frequency / fround(factor));
  if (wave < fround(originalLength / high)) return frequency;
  const smooth = fround(fround(fround(originalLength / wave) - low) / fround(high - low));
  const stretched = fround(fround(fround(1 - smooth) * frequency) / fround(factor));
  return fround(stretched + fround(smooth * frequency));
}

/** YaRN's frequencies. */
function yarnFrequencies(
  waves: Float32Array,
  theta: number,
  headSize: number,
  { factor, betaFast, betaSlow, truncate, originalLength }: YarnRope,
): Float32Array {
  /** The number, not always whole, of the wave that turns so often in the original context. */
  const waveOf = (turns: number) =>
    headSize * Math.log(originalLength / (turns * 2 * Math.PI)) / (2 * Math.log(theta));
  let [low, high] = [waveOf(betaFast), waveOf(betaSlow)];
  if (truncate) [low, high] = [Math.floor(low), Math.ceil(high)];
  low = Math.max(low, 0);
  high = Math.min(high, headSize - 1);
  if (low === high) high += 0.001;
  return waves.map((wave, j) => {
    const ramp = fround(fround(j - fround(low)) / fround(high - low));
    const kept = fround(1 - Math.min(1, Math.max(0, ramp)));
    const stretched = fround(1 / fround(fround(factor) * wave));
    return fround(stretched * fround(1 - kept)) + fround(fround(1 / wave) * kept);
  });
}

/** Angle of each wave per position. */
function frequenciesOf({ headSize, theta, length, scaling }: RopeTableOptions): Float32Array {
  const plain = (base: number) => wavesOf(base, headSize).map((wave) => 1 / wave);
  switch (scaling?.kind) {
    case "linear":
      return plain(theta).map((frequency) => frequency / fround(scaling.factor));
    case "dynamic":
      return plain(dynamicBase(theta, headSize, length, scaling));
    case "llama3":
      return plain(theta).map((frequency) => llama3Frequency(frequency, scaling));
    case "yarn":
      return yarnFrequencies(wavesOf(theta, headSize), theta, headSize, scaling);
  }
  return plain(theta);
}

/**
 * Cosines and sines for `rope`: f32 [length, headSize], for each position headSize/2 cosines and then headSize/2 sines of
 * `position · theta^(−2j/headSize)`, or of what the scaling makes of it. Every step is rounded to float32, as PyTorch does it in
 * transformers.
 *
 * With dynamic scaling the table is the one for a text of `length` tokens. Up to the trained context that is the plain table,
 * whatever the text's length; beyond it, transformers makes another table for each length, so one made here for 2000 tokens
 * agrees with transformers on texts of 2000 tokens, not on shorter ones.
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
export function ropeTable(options: RopeTableOptions): Float32Array {
  const { headSize, theta, length, scaling } = options;
  if (!(headSize > 0 && headSize % 2 === 0 && theta > 0 && length > 0)) {
    throw new RangeError(
      `Cannot make angles for heads of ${headSize}, base ${theta} and ${length} positions: ` +
        "wanted an even size, and numbers above 0",
    );
  }
  const half = headSize / 2;
  const scale = scaling?.kind === "yarn" ? fround(scaling.attentionFactor) : 1;
  const table = new Float32Array(length * headSize);
  for (const [j, frequency] of frequenciesOf(options).entries()) {
    for (let position = 0; position < length; position++) {
      const angle = fround(position * frequency);
      table[position * headSize + j] = fround(Math.cos(angle)) * scale;
      table[position * headSize + half + j] = fround(Math.sin(angle)) * scale;
    }
  }
  return table;
}
