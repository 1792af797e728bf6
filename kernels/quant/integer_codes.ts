/**
 * Integer weights from codes that were made elsewhere: by GPTQ, or in a file.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { tensor } from "../../core/tensor.ts";
import { deviceCodes, IntegerTensor, type IntegerType, zeroBits } from "./integer.ts";
import { unpackCodes } from "./pack_codes.ts";

/** Codes and scales on the host, row by row. */
export interface IntegerParts {
  /** The type whose storage they take. */
  readonly type: IntegerType;
  /** Weights along a row that share a scale. */
  readonly groupSize: number;
  /** [rows, columns]: 0 to 255 for int8, to 15, 7 or 3 for int4, int3 or int2. */
  readonly codes: Uint8Array;
  /** [rows, groups, 2]: scale and zero; a weight is `(code − zero) · scale`. Zeros need not be whole. */
  readonly scales: Float32Array<ArrayBuffer>;
}

/** The codes and scales of an integer tensor, on the host. */
export async function integerParts(weight: IntegerTensor): Promise<IntegerParts> {
  const { scheme: type, groupSize, shape: [rows, columns] } = weight;
  const [words, scales] = await Promise.all([weight.packed.read(), weight.scales.read()]);
  const codes = unpackCodes(words as Uint32Array, weight.bits, rows * columns);
  return { type, groupSize, codes, scales: scales as Float32Array<ArrayBuffer> };
}

/**
 * Packs codes into an integer tensor.
 *
 * @param device where it shall live
 * @param shape [rows, columns]
 * @param parts codes and scales
 * @throws {RangeError} if their lengths do not fit the shape
 */
export function integerFromCodes(
  device: Device,
  shape: readonly [rows: number, columns: number],
  { type, groupSize, codes, scales }: IntegerParts,
): IntegerTensor {
  const [rows, columns] = shape;
  const groups = Math.ceil(columns / groupSize);
  if (codes.length !== rows * columns || scales.length !== 2 * rows * groups) {
    throw new RangeError(
      `Cannot make an integer weight of [${shape}] in groups of ${groupSize}: found ${codes.length} codes and ` +
        `${scales.length} scales and zeros, wanted ${rows * columns} and ${2 * rows * groups}`,
    );
  }
  return new IntegerTensor(
    shape,
    type,
    groupSize,
    device.keep(tensor(device, deviceCodes(type, codes))),
    device.keep(tensor(device, scales, [rows, groups, 2])),
    zeroBits(type, scales),
  );
}
