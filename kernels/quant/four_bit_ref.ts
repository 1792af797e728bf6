/** The specification of four_bit.ts: plain loops, with float32 rounding where bitsandbytes rounds. */
import { type FourBitType, tableOf, thresholdsOf } from "./tables.ts";

/** Quantizes `x` by blocks; two codes to a byte, the first in the high half. */
export function quantizeFourBitRef(
  x: Float32Array,
  type: FourBitType,
  blockSize: number,
): { packed: Uint8Array; absmax: Float32Array } {
  const { thresholds, codes } = thresholdsOf(type);
  const packed = new Uint8Array(Math.ceil(x.length / 2));
  const absmax = new Float32Array(Math.ceil(x.length / blockSize));
  // A last odd element is packed with the code of zero.
  const padded = x.length % 2 === 0 ? x : Float32Array.of(...x, 0);
  for (let i = 0; i < padded.length; i++) {
    const block = Math.floor(i / blockSize);
    if (i % blockSize === 0) {
      for (let j = i; j < Math.min(i + blockSize, x.length); j++) {
        absmax[block] = Math.max(absmax[block], Math.abs(x[j]));
      }
    }
    const whole = (block + 1) * blockSize <= x.length;
    const divisor = Math.max(absmax[block] ?? 1, 1e-38);
    const scaled = whole
      ? Math.fround(padded[i] * Math.fround(1 / Math.fround(divisor)))
      : Math.fround(padded[i] / Math.fround(divisor));
    const code = codes[thresholds.filter((threshold) => scaled > threshold).length];
    packed[i >> 1] |= i % 2 === 0 ? code << 4 : code;
  }
  return { packed, absmax };
}

/** The values that codes stand for. */
export function dequantizeFourBitRef(
  packed: Uint8Array,
  absmax: Float32Array,
  type: FourBitType,
  blockSize: number,
  size: number,
): Float32Array {
  const table = tableOf(type);
  return Float32Array.from({ length: size }, (_, i) => {
    const code = i % 2 === 0 ? packed[i >> 1] >> 4 : packed[i >> 1] & 15;
    return table[code] * absmax[Math.floor(i / blockSize)];
  });
}
