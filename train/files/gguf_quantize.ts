/**
 * f32 as the block types of GGUF, byte for byte as llama.cpp's `quantize_row_*_ref` and gguf-py give them: every step is rounded
 * to 32 bits, as it is there. The layouts are those of gguf_dequantize.ts.
 *
 * @module
 */

/** A type that nibble writes. */
export interface GgufEncoding {
  /** ggml's number of it. */
  readonly id: number;
  /** The largest magnitude that it holds: beyond it, a number or a scale would be infinite. */
  readonly most: number;
  /** Encodes whole blocks into `bytes`, which has just the room for them. The numbers are finite, and none is beyond `most`. */
  encode(numbers: Float32Array, bytes: Uint8Array): void;
}

const { abs, ceil, floor, fround, min } = Math;

/** Above this, rounding to half precision gives infinity. */
const MOST_HALF = 65_519;

/** Where a scale is rounded to half precision. */
const half = new Float16Array(1);
const halfBytes = new Uint8Array(half.buffer);

function storeHalf(value: number, bytes: Uint8Array, at: number): void {
  half[0] = value;
  bytes[at] = halfBytes[0];
  bytes[at + 1] = halfBytes[1];
}

/** 1 / d in 32 bits; 0 where d is 0, or so small that its inverse is infinite: the stored scale is 0 then, whatever the codes. */
function inverse(d: number): number {
  const inverted = fround(1 / d);
  return Number.isFinite(inverted) ? inverted : 0;
}

const F32: GgufEncoding = {
  id: 0,
  most: 3.4028234663852886e38,
  encode(numbers, bytes) {
    bytes.set(new Uint8Array(numbers.buffer, numbers.byteOffset, numbers.byteLength));
  },
};

const F16: GgufEncoding = {
  id: 1,
  most: MOST_HALF,
  encode(numbers, bytes) {
    bytes.set(new Uint8Array(new Float16Array(numbers).buffer));
  },
};

/** The upper halves, rounded to nearest, ties to even. */
const BF16: GgufEncoding = {
  id: 30,
  most: 3.396177326406364e38,
  encode(numbers, bytes) {
    const bits = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
    for (let i = 0; i < bits.length; i++) {
      const rounded = bits[i] + 0x7fff + (bits[i] >>> 16 & 1) >>> 16;
      bytes[2 * i] = rounded;
      bytes[2 * i + 1] = rounded >>> 8;
    }
  },
};

/** d = the largest magnitude / 127; x / d rounded to nearest, halves away from zero, as C's `roundf`. */
const Q8_0: GgufEncoding = {
  id: 8,
  most: 127 * MOST_HALF,
  encode(numbers, bytes) {
    for (let from = 0, at = 0; from < numbers.length; from += 32, at += 34) {
      let largest = 0;
      for (let j = 0; j < 32; j++) largest = Math.max(largest, abs(numbers[from + j]));
      const d = fround(largest / 127);
      const id = inverse(d);
      storeHalf(d, bytes, at);
      for (let j = 0; j < 32; j++) {
        const x = fround(numbers[from + j] * id);
        bytes[at + 2 + j] = x < 0 ? ceil(x - 0.5) : floor(x + 0.5);
      }
    }
  },
};

/** A number as a code from 0 to 15. */
function fourBits(number: number, id: number): number {
  return min(15, floor(fround(fround(number * id) + 8.5)));
}

/** d = the number of the largest magnitude, the first of them, with its sign, / −8: that number becomes code 0, exactly. */
const Q4_0: GgufEncoding = {
  id: 2,
  most: 8 * MOST_HALF,
  encode(numbers, bytes) {
    for (let from = 0, at = 0; from < numbers.length; from += 32, at += 18) {
      let largest = 0;
      for (let j = 0; j < 32; j++) {
        if (abs(numbers[from + j]) > abs(largest)) largest = numbers[from + j];
      }
      const d = fround(largest / -8);
      const id = inverse(d);
      storeHalf(d, bytes, at);
      for (let j = 0; j < 16; j++) {
        bytes[at + 2 + j] = fourBits(numbers[from + j], id) |
          fourBits(numbers[from + j + 16], id) << 4;
      }
    }
  },
};

/** How a tensor can be written, by ggml's names. */
export type GgufWriteType = "F32" | "F16" | "BF16" | "Q8_0" | "Q4_0";

/** The types that nibble writes. */
export const GGUF_ENCODINGS: Readonly<Record<GgufWriteType, GgufEncoding>> = {
  F32,
  F16,
  BF16,
  Q8_0,
  Q4_0,
};
