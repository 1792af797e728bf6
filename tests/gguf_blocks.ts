/** Weights in GGUF's blocks, out of a seed. */
import { GGUF_BLOCKS, type GgufBlockType } from "../kernels/quant/gguf_types.ts";
import { randomIntegers, randomNumbers } from "./device.ts";

/** Blocks of random codes; their scales and minima are normal numbers of deviation `size`. */
export function randomBlocks(
  type: GgufBlockType,
  count: number,
  seed: number,
  size: number,
): Uint8Array<ArrayBuffer> {
  const { bytes, halves } = GGUF_BLOCKS[type];
  const all = Uint8Array.from(randomIntegers(count * bytes, 256, seed));
  const scales = randomNumbers(count * halves.length, seed + 1, size);
  const view = new DataView(all.buffer);
  for (let block = 0; block < count; block++) {
    for (const [i, at] of halves.entries()) {
      view.setFloat16(block * bytes + at, scales[block * halves.length + i], true);
    }
  }
  return all;
}
