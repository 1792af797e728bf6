/**
 * Floating-point numbers as files store them, widened to f32.
 *
 * @module
 */

import { FP8_TABLES, type Fp8Type } from "../../kernels/quant/fp8.ts";

/** How a type's numbers become f32. */
export interface Widening {
  /** Bytes of a number as it is stored. */
  readonly bytes: number;
  /** Fills `numbers` from `stored`: little-endian, as many numbers, at a place that fits the type. */
  to(stored: Uint8Array<ArrayBuffer>, numbers: Float32Array<ArrayBuffer>): void;
}

/** The floating-point types of safetensors by name. */
export const FLOATS: ReadonlyMap<string, Widening> = new Map([
  ["F32", {
    bytes: 4,
    to: (stored, numbers) => numbers.set(viewed(Float32Array, stored, numbers.length)),
  }],
  ["F16", {
    bytes: 2,
    to: (stored, numbers) => numbers.set(viewed(Float16Array, stored, numbers.length)),
  }],
  ["BF16", {
    bytes: 2,
    to(stored, numbers) {
      const halves = viewed(Uint16Array, stored, numbers.length);
      const bits = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
      for (let i = 0; i < bits.length; i++) bits[i] = halves[i] << 16;
    },
  }],
  ["F64", {
    bytes: 8,
    to: (stored, numbers) => numbers.set(viewed(Float64Array, stored, numbers.length)),
  }],
  ["F8_E4M3", widenFp8("e4m3")],
  ["F8_E5M2", widenFp8("e5m2")],
]);

function widenFp8(type: Fp8Type): Widening {
  const table = FP8_TABLES[type];
  return {
    bytes: 1,
    to(stored, numbers) {
      for (let i = 0; i < numbers.length; i++) numbers[i] = table[stored[i]];
    },
  };
}

function viewed<T>(
  Type: new (buffer: ArrayBuffer, at: number, length: number) => T,
  stored: Uint8Array<ArrayBuffer>,
  length: number,
): T {
  return new Type(stored.buffer, stored.byteOffset, length);
}
