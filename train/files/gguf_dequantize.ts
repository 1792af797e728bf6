/**
 * The block types of GGUF as f32, bit for bit as llama.cpp's `dequantize_row_*` and gguf-py give them: every sum below is exact in
 * 64 bits, and rounded once on its way into the f32 array. Layouts: ggml's `ggml-common.h` and `ggml-quants.c`.
 *
 * @module
 */

/** Decodes whole blocks from `bytes` into `out`, which has just the room for them. */
export type Dequantize = (bytes: Uint8Array<ArrayBuffer>, out: Float32Array) => void;

let halves: Float32Array | undefined;

/** Every half-precision number by its bits: a look-up is several times faster than `DataView.getFloat16`. */
function halfTable(): Float32Array {
  return halves ??= new Float32Array(
    new Float16Array(Uint16Array.from({ length: 65536 }, (_, bits) => bits).buffer),
  );
}

const F32: Dequantize = (bytes, out) => {
  new Uint8Array(out.buffer, out.byteOffset, out.byteLength).set(bytes);
};

const F16: Dequantize = (bytes, out) => {
  const half = halfTable();
  for (let i = 0; i < out.length; i++) out[i] = half[bytes[2 * i] | bytes[2 * i + 1] << 8];
};

const BF16: Dequantize = (bytes, out) => {
  const bits = new Uint32Array(out.buffer, out.byteOffset, out.length);
  for (let i = 0; i < bits.length; i++) bits[i] = bytes[2 * i] << 16 | bytes[2 * i + 1] << 24;
};

/** d; 16 bytes, weight j in the low half of byte j, weight j + 16 in its high half. */
const Q4_0: Dequantize = (bytes, out) => {
  const half = halfTable();
  for (let at = 0, to = 0; to < out.length; at += 18, to += 32) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 2 + j];
      out[to + j] = ((pair & 15) - 8) * d;
      out[to + j + 16] = ((pair >> 4) - 8) * d;
    }
  }
};

/** d, m; then as Q4_0. */
const Q4_1: Dequantize = (bytes, out) => {
  const half = halfTable();
  for (let at = 0, to = 0; to < out.length; at += 20, to += 32) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    const m = half[bytes[at + 2] | bytes[at + 3] << 8];
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 4 + j];
      out[to + j] = (pair & 15) * d + m;
      out[to + j + 16] = (pair >> 4) * d + m;
    }
  }
};

/** d; 32 fifth bits; then as Q4_0. */
const Q5_0: Dequantize = (bytes, out) => {
  const half = halfTable();
  for (let at = 0, to = 0; to < out.length; at += 22, to += 32) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    const high = bytes[at + 2] | bytes[at + 3] << 8 | bytes[at + 4] << 16 | bytes[at + 5] << 24;
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 6 + j];
      out[to + j] = ((pair & 15 | (high >>> j & 1) << 4) - 16) * d;
      out[to + j + 16] = ((pair >> 4 | (high >>> j + 16 & 1) << 4) - 16) * d;
    }
  }
};

/** d, m; 32 fifth bits; then as Q4_0. */
const Q5_1: Dequantize = (bytes, out) => {
  const half = halfTable();
  for (let at = 0, to = 0; to < out.length; at += 24, to += 32) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    const m = half[bytes[at + 2] | bytes[at + 3] << 8];
    const high = bytes[at + 4] | bytes[at + 5] << 8 | bytes[at + 6] << 16 | bytes[at + 7] << 24;
    for (let j = 0; j < 16; j++) {
      const pair = bytes[at + 8 + j];
      out[to + j] = (pair & 15 | (high >>> j & 1) << 4) * d + m;
      out[to + j + 16] = (pair >> 4 | (high >>> j + 16 & 1) << 4) * d + m;
    }
  }
};

/** d; 32 signed bytes. */
const Q8_0: Dequantize = (bytes, out) => {
  const half = halfTable();
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, to = 0; to < out.length; at += 34, to += 32) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    for (let j = 0; j < 32; j++) out[to + j] = signed[at + 2 + j] * d;
  }
};

/** Eight scales and eight minima of 6 bits in the 12 bytes at `at`: into `scales` and `minima`. */
function unpackSixBits(
  bytes: Uint8Array,
  at: number,
  scales: Uint8Array,
  minima: Uint8Array,
): void {
  for (let j = 0; j < 4; j++) {
    const [a, b, c] = [bytes[at + j], bytes[at + j + 4], bytes[at + j + 8]];
    scales[j] = a & 63;
    minima[j] = b & 63;
    scales[j + 4] = c & 15 | a >> 6 << 4;
    minima[j + 4] = c >> 4 | b >> 6 << 4;
  }
}

/** d, dmin; 12 bytes of scales; 128 bytes, in four groups of 32: low halves are 32 weights, high halves the next 32. */
const Q4_K: Dequantize = (bytes, out) => {
  const half = halfTable();
  const scales = new Uint8Array(8);
  const minima = new Uint8Array(8);
  for (let at = 0, to = 0; to < out.length; at += 144, to += 256) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    const dmin = half[bytes[at + 2] | bytes[at + 3] << 8];
    unpackSixBits(bytes, at + 4, scales, minima);
    for (let group = 0; group < 4; group++) {
      const [d1, m1] = [d * scales[2 * group], dmin * minima[2 * group]];
      const [d2, m2] = [d * scales[2 * group + 1], dmin * minima[2 * group + 1]];
      const from = at + 16 + 32 * group;
      const first = to + 64 * group;
      for (let j = 0; j < 32; j++) {
        const pair = bytes[from + j];
        out[first + j] = d1 * (pair & 15) - m1;
        out[first + j + 32] = d2 * (pair >> 4) - m2;
      }
    }
  }
};

/** d, dmin; 12 bytes of scales; 32 bytes of fifth bits, two of each byte to a group; then as Q4_K. */
const Q5_K: Dequantize = (bytes, out) => {
  const half = halfTable();
  const scales = new Uint8Array(8);
  const minima = new Uint8Array(8);
  for (let at = 0, to = 0; to < out.length; at += 176, to += 256) {
    const d = half[bytes[at] | bytes[at + 1] << 8];
    const dmin = half[bytes[at + 2] | bytes[at + 3] << 8];
    unpackSixBits(bytes, at + 4, scales, minima);
    for (let group = 0; group < 4; group++) {
      const [d1, m1] = [d * scales[2 * group], dmin * minima[2 * group]];
      const [d2, m2] = [d * scales[2 * group + 1], dmin * minima[2 * group + 1]];
      const from = at + 48 + 32 * group;
      const first = to + 64 * group;
      for (let j = 0; j < 32; j++) {
        const pair = bytes[from + j];
        const high = bytes[at + 16 + j] >> 2 * group;
        out[first + j] = d1 * (pair & 15 | (high & 1) << 4) - m1;
        out[first + j + 32] = d2 * (pair >> 4 | (high & 2) << 3) - m2;
      }
    }
  }
};

/** 128 bytes of low halves; 64 bytes of upper pairs of bits; 16 signed scales; d. Two parts of 128 weights, four lines each. */
const Q6_K: Dequantize = (bytes, out) => {
  const half = halfTable();
  const signed = new Int8Array(bytes.buffer, bytes.byteOffset, bytes.length);
  for (let at = 0, to = 0; to < out.length; at += 210, to += 256) {
    const d = half[bytes[at + 208] | bytes[at + 209] << 8];
    for (let part = 0; part < 2; part++) {
      const low = at + 64 * part;
      const high = at + 128 + 32 * part;
      const scale = at + 192 + 8 * part;
      const first = to + 128 * part;
      for (let j = 0; j < 32; j++) {
        const own = scale + (j >> 4);
        const [a, b, pairs] = [bytes[low + j], bytes[low + j + 32], bytes[high + j]];
        out[first + j] = d * signed[own] * ((a & 15 | (pairs & 3) << 4) - 32);
        out[first + j + 32] = d * signed[own + 2] * ((b & 15 | (pairs & 12) << 2) - 32);
        out[first + j + 64] = d * signed[own + 4] * ((a >> 4 | pairs & 48) - 32);
        out[first + j + 96] = d * signed[own + 6] * ((b >> 4 | (pairs & 192) >> 2) - 32);
      }
    }
  }
};

/** The decoders by the name of their type. */
export const DEQUANTIZE: ReadonlyMap<string, Dequantize> = new Map(
  Object.entries({ F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K, Q5_K, Q6_K }),
);
