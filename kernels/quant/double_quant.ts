/**
 * Double quantization: the scales of a 4-bit tensor, themselves stored in 8 bits. This runs on the host: there is one scale for
 * 64 weights, and its steps must round as bitsandbytes rounds them, which a GPU's division and summation order do not.
 *
 * @module
 */
import { dynamicMap } from "./dynamic_map.ts";

/** Scales that share one 32-bit scale of their own: fixed in bitsandbytes. */
export const NESTED_BLOCK = 256;

/** Double-quantized scales: scale i is `map[codes[i]] · nestedAbsmax[i / 256] + offset`. */
export interface NestedScales {
  /** [scales]: the index in `map` of each scale. */
  readonly codes: Uint8Array;
  /** [⌈scales / 256⌉]: the largest magnitude of each 256 scales, once the offset is taken off. */
  readonly nestedAbsmax: Float32Array;
  /** The mean of all scales. */
  readonly offset: number;
  /** The 256 values of the codes; a checkpoint brings its own. */
  readonly map: Float32Array;
}

/** Sums of four interleaved streams of eight lanes, in PyTorch's cascade: partial sums move up a level every 2^k terms. */
function cascade(x: Float32Array, groups: number): Float32Array {
  const WIDTH = 32;
  const levels = Array.from({ length: 4 }, () => new Float32Array(WIDTH));
  const power = Math.max(4, Math.floor(Math.ceil(Math.log2(Math.max(groups, 1))) / 4));
  const step = 2 ** power;
  const addGroup = (group: number) => {
    for (let lane = 0; lane < WIDTH; lane++) levels[0][lane] += x[group * WIDTH + lane];
  };
  let group = 0;
  while (group + step <= groups) {
    for (let i = 0; i < step; i++) addGroup(group++);
    for (let level = 1; level < 4; level++) {
      for (let lane = 0; lane < WIDTH; lane++) levels[level][lane] += levels[level - 1][lane];
      levels[level - 1].fill(0);
      if (group & ((step - 1) << (level * power))) break;
    }
  }
  while (group < groups) addGroup(group++);
  for (let level = 1; level < 4; level++) {
    for (let lane = 0; lane < WIDTH; lane++) levels[0][lane] += levels[level][lane];
  }
  return levels[0];
}

/**
 * The mean in float32, summed in the order of PyTorch's CPU kernel (vectors of eight, four streams, a cascade of four levels), so
 * that the offset of double quantization has the same last bit.
 */
export function meanLikeTorch(x: Float32Array): number {
  const LANES = 8;
  const vectors = Math.floor(x.length / LANES);
  const groups = Math.floor(vectors / 4);
  const streams = cascade(x, groups);
  for (let vector = groups * 4; vector < vectors; vector++) {
    for (let lane = 0; lane < LANES; lane++) streams[lane] += x[vector * LANES + lane];
  }
  for (let stream = 1; stream < 4; stream++) {
    for (let lane = 0; lane < LANES; lane++) streams[lane] += streams[stream * LANES + lane];
  }
  let total = 0;
  for (let i = vectors * LANES; i < x.length; i++) total = Math.fround(total + x[i]);
  for (let lane = 0; lane < LANES; lane++) total = Math.fround(total + streams[lane]);
  return Math.fround(total / x.length);
}

/** Bins of [−1, 1] in bitsandbytes' table from values to codes. */
const BINS = 65_536;
let codeOfBin: Uint8Array | undefined;

function binTable(): Uint8Array {
  if (codeOfBin) return codeOfBin;
  const map = dynamicMap();
  codeOfBin = new Uint8Array(BINS);
  let code = 0;
  for (let bin = 0; bin < BINS; bin++) {
    const value = Math.fround(-1 + Math.fround(2 * bin / (BINS - 1)));
    while (code < 255 && Math.fround(Math.fround(map[code] + map[code + 1]) / 2) < value) code++;
    codeOfBin[bin] = code;
  }
  return codeOfBin;
}

/**
 * Quantizes scales to 8 bits, 256 to a block, after subtracting their mean: bitsandbytes' `compress_statistics`, equal to its CPU
 * version byte for byte. (Its CUDA version finds the nearest code by another search: codes may differ by one.)
 * Dettmers et al., "QLoRA" (arXiv 2305.14314), section 3.
 */
export function doubleQuantize(absmax: Float32Array): NestedScales {
  const map = dynamicMap();
  const offset = meanLikeTorch(absmax);
  const table = binTable();
  const codes = new Uint8Array(absmax.length);
  const nestedAbsmax = new Float32Array(Math.ceil(absmax.length / NESTED_BLOCK));
  for (let block = 0; block < nestedAbsmax.length; block++) {
    const from = block * NESTED_BLOCK;
    const to = Math.min(from + NESTED_BLOCK, absmax.length);
    let largest = 0;
    for (let i = from; i < to; i++) {
      largest = Math.max(largest, Math.abs(Math.fround(absmax[i] - offset)));
    }
    nestedAbsmax[block] = largest;
    if (largest === 0) continue; // all scales equal the offset: code 0 times 0
    const inverse = Math.fround(1 / largest);
    for (let i = from; i < to; i++) {
      const scaled = Math.fround(Math.fround(absmax[i] - offset) * inverse);
      const half = Math.fround(Math.fround(Math.max(-1, Math.min(1, scaled)) + 1) * 0.5);
      codes[i] = table[Math.min(BINS - 1, Math.trunc(Math.fround(half * (BINS - 1) + 0.5)))];
    }
  }
  return { codes, nestedAbsmax, offset, map };
}

/** The scales that double-quantized scales stand for, each step rounded to float32. */
export function nestedToAbsmax({ codes, nestedAbsmax, offset, map }: NestedScales): Float32Array {
  return Float32Array.from(
    codes,
    (code, i) => Math.fround(map[code] * nestedAbsmax[Math.floor(i / NESTED_BLOCK)]) + offset,
  );
}
