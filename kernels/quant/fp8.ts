/**
 * Numbers of 8 bits: e4m3 and e5m2 of the Open Compute Project's "OCP 8-bit Floating Point Specification (OFP8)", revision 1.0. For
 * storage: nibble computes in 32 bits.
 *
 * @module
 */
import {
  decodeFloat,
  encodeFloat,
  type EncodeFloatOptions,
  type FloatFormat,
} from "./float_format.ts";

/** The two types: "e4m3" has 4 bits of exponent and no infinity, and reaches 448; "e5m2" has 5, and reaches 57,344. */
export type Fp8Type = "e4m3" | "e5m2";

/** Their layout. */
export const FP8_FORMATS: Readonly<Record<Fp8Type, FloatFormat>> = {
  e4m3: { exponentBits: 4, fractionBits: 3, infinities: false },
  e5m2: { exponentBits: 5, fractionBits: 2, infinities: true },
};

function tableOf(type: Fp8Type): Float32Array {
  return Float32Array.from({ length: 256 }, (_, code) => decodeFloat(code, FP8_FORMATS[type]));
}

/** The number that each of the 256 codes stands for. */
export const FP8_TABLES: Readonly<Record<Fp8Type, Float32Array>> = {
  e4m3: tableOf("e4m3"),
  e5m2: tableOf("e5m2"),
};

/**
 * Numbers as bytes, each rounded to the nearest that the type has, ties to even. NaN stays NaN. Numbers that are too large, and
 * infinity, become the largest; with `saturate: false` infinity, or NaN in e4m3, as PyTorch's conversion has it.
 *
 * @param numbers any
 * @param type which of the two
 * @param options what becomes of numbers that are too large
 *
 * @example A tensor that Python reads as `torch.float8_e4m3fn`
 * ```ts
 * import { decodeFp8, encodeFp8, writeSafetensors } from "@nibble/nibble";
 *
 * const data = encodeFp8([0.1, -1.3, 1000], "e4m3");
 * console.log(decodeFp8(data, "e4m3")); // 0.1015625, -1.25, 448
 * const path = `${await Deno.makeTempDir()}/weights.safetensors`;
 * await writeSafetensors(path, new Map([["w", { dtype: "F8_E4M3", shape: [3], data }]]));
 * ```
 */
export function encodeFp8(
  numbers: ArrayLike<number>,
  type: Fp8Type,
  options: EncodeFloatOptions = {},
): Uint8Array<ArrayBuffer> {
  const format = FP8_FORMATS[type];
  return Uint8Array.from(numbers, (value) => encodeFloat(value, format, options));
}

/** The numbers that bytes stand for, exactly. */
export function decodeFp8(codes: Uint8Array, type: Fp8Type): Float32Array<ArrayBuffer> {
  const table = FP8_TABLES[type];
  return Float32Array.from(codes, (code) => table[code]);
}
