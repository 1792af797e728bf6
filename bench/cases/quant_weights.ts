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
import { IntegerTensor } from "../../kernels/quant/integer.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { Inputs } from "../case.ts";

/** Weights that share a scale, except in int8, where a row does. */
export const BLOCK = 64;

/** The schemes that are benched. */
export type Scheme = "nf4" | "nf4-dq" | "int8" | "int4";

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

/** A random weight in integers: int8 with a scale for each row, int4 with a scale and a zero for each block. */
function randomInteger(
  inputs: Inputs,
  rows: number,
  columns: number,
  scheme: "int8" | "int4",
): RandomWeight {
  const bits = scheme === "int8" ? 8 : 4;
  const size = scheme === "int8" ? columns : BLOCK;
  const groups = columns / size;
  const packed = inputs.bits([rows * columns * bits / 32]);
  const pairs = Float32Array.from({ length: 2 * rows * groups }, (_, i) => {
    if (i % 2 === 0) return 0.01 + (i >> 1) % 7 * 0.001;
    return scheme === "int8" ? 128 : (i >> 1) % 16;
  });
  const scales = inputs.data(pairs, [rows, groups, 2]);
  return {
    weight: new IntegerTensor([rows, columns], scheme, size, packed, scales, scheme === "int4"),
    elements: (read, start, count) => {
      const bytes = new Uint8Array(read(packed).buffer);
      return Float32Array.from({ length: count }, (_, i) => {
        const at = start + i;
        const byte = bytes[Math.floor(at * bits / 8)];
        const code = bits === 8 ? byte : at % 2 === 0 ? byte & 15 : byte >> 4;
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
  return scheme === "int8" || scheme === "int4"
    ? randomInteger(inputs, rows, columns, scheme)
    : randomFourBit(inputs, rows, columns, scheme === "nf4-dq");
}

/** The bytes of codes and scales of so many elements in `rows` rows. */
export function weightBytes(scheme: Scheme, size: number, rows: number): number {
  if (scheme === "int8") return size + 8 * rows;
  const perBlock = { "nf4": 4, "nf4-dq": 1, "int4": 8 }[scheme];
  return size / 2 + size / BLOCK * perBlock;
}
