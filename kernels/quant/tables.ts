/**
 * The 16 values of each 4-bit float type, as bitsandbytes defines them, in float32 to the last bit.
 *
 * @module
 */

/** The names of the 4-bit float types. */
export type FourBitType = "nf4" | "fp4";

/**
 * NF4: the quantiles of a normal distribution, scaled to [−1, 1], with an exact zero.
 * Dettmers et al., "QLoRA" (arXiv 2305.14314). Computing them again in float64 misses the last digits of several, so here they are.
 */
export const NF4_TABLE: Float32Array = new Float32Array([
  -1.0,
  -0.6961928009986877,
  -0.5250730514526367,
  -0.39491748809814453,
  -0.28444138169288635,
  -0.18477343022823334,
  -0.09105003625154495,
  0.0,
  0.07958029955625534,
  0.16093020141124725,
  0.24611230194568634,
  0.33791524171829224,
  0.44070982933044434,
  0.5626170039176941,
  0.7229568362236023,
  1.0,
]);

/** FP4: a sign bit and one of eight magnitudes, the type's own and not those of IEEE or OCP. Codes are not in order of value. */
export const FP4_TABLE: Float32Array = new Float32Array([
  0,
  0.0625 / 12,
  8 / 12,
  1,
  4 / 12,
  6 / 12,
  2 / 12,
  3 / 12,
  -0,
  -0.0625 / 12,
  -8 / 12,
  -1,
  -4 / 12,
  -6 / 12,
  -2 / 12,
  -3 / 12,
]);

/** The table of a type. */
export function tableOf(type: FourBitType): Float32Array {
  return type === "nf4" ? NF4_TABLE : FP4_TABLE;
}

/**
 * How values map to codes: the code is `codes[number of thresholds below x]`. The thresholds are the float32 midpoints of
 * neighbouring values; a value on a threshold takes the lower code. As in bitsandbytes on a processor, FP4's two zeros are
 * neighbours too: what rounds to zero from above gets code 8, and the rest code 0. (On CUDA it is the other way round.)
 */
export function thresholdsOf(type: FourBitType): { thresholds: Float32Array; codes: Uint8Array } {
  const table = tableOf(type);
  const order = Array.from(table.keys()).sort((a, b) => table[a] - table[b] || a - b);
  const thresholds = new Float32Array(15);
  for (let i = 0; i < 15; i++) {
    thresholds[i] = Math.fround(table[order[i]] + table[order[i + 1]]) / 2;
  }
  return { thresholds, codes: Uint8Array.from(order) };
}
