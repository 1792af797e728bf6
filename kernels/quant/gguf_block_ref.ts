/**
 * The specification of gguf_block.ts: the weights of one block in 64 bits, one after the other, as `dequantize_row_*` in llama.cpp's
 * ggml-quants.c has them.
 *
 * @module
 */
import type { GgufBlockType } from "./gguf_types.ts";

/** One block's bytes to its weights; f32 holds each after one rounding. */
export function ggufBlockRef(type: GgufBlockType, bytes: Uint8Array<ArrayBuffer>): number[] {
  const view = new DataView(bytes.buffer, bytes.byteOffset, bytes.length);
  const half = (at: number) => view.getFloat16(at, true);
  const count = type.endsWith("_K") ? 256 : 32;
  return Array.from({ length: count }, (_, j) => weightAt(type, view, half, j));
}

/** Half a byte. */
function nibble(view: DataView, at: number, high: boolean): number {
  const byte = view.getUint8(at);
  return high ? byte >> 4 : byte & 15;
}

/** Bit i of the bits from a place on. */
function bit(view: DataView, at: number, i: number): number {
  return view.getUint8(at + (i >> 3)) >> (i & 7) & 1;
}

/** Scale and minimum of a group of Q4_K and Q5_K: 6 bits each, those of the last four groups cut in two. */
function sixBits(view: DataView, group: number): [scale: number, least: number] {
  const byte = (i: number) => view.getUint8(4 + i);
  if (group < 4) return [byte(group) & 63, byte(group + 4) & 63];
  return [
    (byte(group + 4) & 15) + 16 * (byte(group - 4) >> 6),
    (byte(group + 4) >> 4) + 16 * (byte(group) >> 6),
  ];
}

function weightAt(
  type: GgufBlockType,
  view: DataView,
  half: (at: number) => number,
  j: number,
): number {
  const code = (from: number) => nibble(view, from + j % 16, j >= 16);
  const group = j >> 5;
  const pairs = (from: number) => nibble(view, from + 32 * (j >> 6) + j % 32, group % 2 === 1);
  switch (type) {
    case "Q4_0":
      return (code(2) - 8) * half(0);
    case "Q4_1":
      return code(4) * half(0) + half(2);
    case "Q5_0":
      return (code(6) + 16 * bit(view, 2, j) - 16) * half(0);
    case "Q5_1":
      return (code(8) + 16 * bit(view, 4, j)) * half(0) + half(2);
    case "Q8_0":
      return view.getInt8(2 + j) * half(0);
    case "Q4_K": {
      const [scale, least] = sixBits(view, group);
      return half(0) * scale * pairs(16) - half(2) * least;
    }
    case "Q5_K": {
      const [scale, least] = sixBits(view, group);
      const fifth = view.getUint8(16 + j % 32) >> group & 1;
      return half(0) * scale * (pairs(48) + 16 * fifth) - half(2) * least;
    }
    case "Q6_K": {
      const [part, line, i] = [j >> 7, group % 4, j % 32];
      const low = nibble(view, 64 * part + 32 * (line % 2) + i, line >= 2);
      const high = view.getUint8(128 + 32 * part + i) >> 2 * line & 3;
      const scale = view.getInt8(192 + 8 * part + 2 * line + (i >> 4));
      return half(208) * scale * (low + 16 * high - 32);
    }
  }
}
