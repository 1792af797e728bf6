/**
 * Random quantized weights for benches: made on the device, known to the reference.
 *
 * @module
 */
import type { Tensor, TypedArray } from "../../core/tensor.ts";
import { nestedToAbsmax } from "../../kernels/quant/double_quant.ts";
import { dynamicMap } from "../../kernels/quant/dynamic_map.ts";
import { FourBitTensor } from "../../kernels/quant/four_bit.ts";
import { dequantizeFourBitRef } from "../../kernels/quant/four_bit_ref.ts";
import { INTEGER_BITS, IntegerTensor, type IntegerType } from "../../kernels/quant/integer.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { Inputs } from "../case.ts";

/** Weights that share a scale, except in int8, where a row does. */
export const BLOCK = 64;

/** The schemes that are benched; with "-symmetric" every zero is the middle of the codes' range. */
export type Scheme = "nf4" | "nf4-dq" | IntegerType | "int4-symmetric";

/** A weight of random codes and scales. */
export interface RandomWeight<Weight extends QuantizedTensor = QuantizedTensor> {
  readonly weight: Weight;
  /** The elements of a part that is a whole number of blocks, by the reference. */
  elements(read: (t: Tensor) => TypedArray, start: number, count: number): Float32Array;
}

/** A random weight in 4-bit floats. */
export function randomFourBit(
  inputs: Inputs,
  rows: number,
  columns: number,
  nested: boolean,
): RandomWeight<FourBitTensor> {
  const blocks = rows * columns / BLOCK;
  const packed = inputs.bits([rows * columns / 8]);
  let weight: FourBitTensor;
  let scales: (read: (t: Tensor) => TypedArray) => Float32Array;
  if (nested) {
    const codes = inputs.bits([Math.ceil(blocks / 4)]);
    const nestedAbsmax = new Float32Array(Math.ceil(blocks / 256)).fill(0.01);
    const offset = 0.02;
    const table = new Float32Array(258 + nestedAbsmax.length);
    table.set(dynamicMap());
    table[256] = offset;
    table.set(nestedAbsmax, 258);
    const scale = { kind: "nested", codes, table: inputs.data(table) } as const;
    weight = new FourBitTensor([rows, columns], "nf4", BLOCK, packed, scale);
    scales = (read) =>
      nestedToAbsmax({
        codes: new Uint8Array(read(codes).buffer, 0, blocks),
        nestedAbsmax,
        offset: Math.fround(offset),
        map: dynamicMap(),
      });
  } else {
    const absmax = inputs.between([blocks], 0.01, 0.03);
    weight = new FourBitTensor([rows, columns], "nf4", BLOCK, packed, { kind: "plain", absmax });
    scales = (read) => read(absmax) as Float32Array;
  }
  let known: Float32Array | undefined;
  return {
    weight,
    elements: (read, start, count) => {
      known ??= scales(read);
      const bytes = new Uint8Array(read(packed).buffer).subarray(start / 2, (start + count) / 2);
      const own = known.subarray(start / BLOCK, Math.ceil((start + count) / BLOCK));
      return dequantizeFourBitRef(bytes, own, "nf4", BLOCK, count);
    },
  };
}

/** A random weight in integers: int8 with a scale for each row, others with a scale and, unless `symmetric`, a zero for each block. */
function randomInteger(
  inputs: Inputs,
  rows: number,
  columns: number,
  scheme: IntegerType,
  symmetric: boolean,
): RandomWeight {
  const bits = INTEGER_BITS[scheme];
  const size = scheme === "int8" ? columns : BLOCK;
  const groups = columns / size;
  // Behind int3's codes lie words that are loaded with the last of them.
  const packed = inputs.bits([4 * Math.ceil((rows * columns * bits / 32 + 1) / 4)]);
  const pairs = Float32Array.from({ length: 2 * rows * groups }, (_, i) => {
    if (i % 2 === 0) return 0.01 + (i >> 1) % 7 * 0.001;
    return symmetric ? 2 ** (bits - 1) : (i >> 1) % 2 ** bits;
  });
  const scales = inputs.data(pairs, [rows, groups, 2]);
  const zeroBits = symmetric ? 0 : bits;
  return {
    weight: new IntegerTensor([rows, columns], scheme, size, packed, scales, zeroBits),
    elements: (read, start, count) => {
      const bytes = new Uint8Array(read(packed).buffer);
      return Float32Array.from({ length: count }, (_, i) => {
        const at = start + i;
        const byte = Math.floor(at * bits / 8);
        const code = (bytes[byte] | bytes[byte + 1] << 8) >> at * bits % 8 & (2 ** bits - 1);
        const group = 2 * Math.floor(at / size);
        return (code - pairs[group + 1]) * pairs[group];
      });
    },
  };
}

/** A random weight of any scheme. */
export function randomWeight(
  inputs: Inputs,
  rows: number,
  columns: number,
  scheme: Scheme,
): RandomWeight {
  if (scheme === "nf4" || scheme === "nf4-dq") {
    return randomFourBit(inputs, rows, columns, scheme === "nf4-dq");
  }
  if (scheme === "int4-symmetric") return randomInteger(inputs, rows, columns, "int4", true);
  return randomInteger(inputs, rows, columns, scheme, scheme === "int8");
}

/** The bytes of codes and scales of so many elements in `rows` rows. */
export function weightBytes(scheme: Scheme, size: number, rows: number): number {
  if (scheme === "int8") return size + 8 * rows;
  if (scheme === "nf4" || scheme === "nf4-dq") {
    return size / 2 + size / BLOCK * (scheme === "nf4" ? 4 : 1);
  }
  const type = scheme === "int4-symmetric" ? "int4" : scheme;
  return size * INTEGER_BITS[type] / 8 + size / BLOCK * 8;
}
