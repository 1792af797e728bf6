/**
 * Integer weights in checkpoints, in the layout that compressed-tensors calls "pack-quantized"
 * (github.com/vllm-project/compressed-tensors; its version 0.20 decodes what is written here to the same numbers, and transformers 5.23
 * loads INT8 with it, but no zero points). For a layer `up_proj` there are
 *
 * - `up_proj.weight_packed`, I32 [rows, ⌈columns · bits / 32⌉]: codes of a row side by side without gaps, the first in the low bits,
 *   each 2^(bits − 1) higher than the number it stands for; one of 3 bits may lie across two words;
 * - `up_proj.weight_scale`, [rows, groups]: F32 here, also read in F16 and BF16;
 * - `up_proj.weight_zero_point`, I32 [⌈rows · bits / 32⌉, groups]: zeros, packed the same way but down the columns; only where a zero
 *   is not in the middle. Where zeros lie between whole numbers, as HQQ's do, F16 or F32 [rows, groups], which only nibble reads;
 * - `up_proj.weight_shape`, I64 [2]: rows and columns.
 *
 * How many weights share a scale is in config.json, in `quantization_config.config_groups`. nibble lets the last group of a row be
 * shorter, which other readers may not.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import type { IntegerType } from "../../kernels/quant/integer.ts";
import { packCodes, unpackCodes } from "../../kernels/quant/pack_codes.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";
import {
  BITS,
  hasOwnZeros,
  integerFault,
  isSymmetric,
  readScales,
  type StoredInteger,
  storedScales,
  storedZeros,
  wholeZeros,
} from "./stored_integer.ts";

function turned(numbers: Uint8Array, rows: number, columns: number): Uint8Array<ArrayBuffer> {
  return Uint8Array.from(numbers, (_, i) => numbers[i % rows * columns + Math.floor(i / rows)]);
}

/**
 * The tensors that stand for an integer weight in a checkpoint.
 *
 * @param name the weight's name, such as `model.layers.0.mlp.up_proj.weight`
 * @param stored codes, scales and zeros
 */
export function storeInteger(name: string, stored: StoredInteger): Map<string, TensorData> {
  const { type, codes, shape: [rows, columns] } = stored;
  const tensors = new Map<string, TensorData>();
  const words = packCodes(codes, BITS[type], columns);
  const width = words.length / rows;
  tensors.set(`${name}_packed`, {
    dtype: "I32",
    shape: [rows, width],
    data: new Int32Array(words.buffer),
  });
  for (const [key, data] of storeGrid(name, stored)) tensors.set(key, data);
  const data = BigInt64Array.of(BigInt(rows), BigInt(columns));
  return tensors.set(`${name}_shape`, { dtype: "I64", shape: [2], data });
}

/** Of these tensors, the scales and the zero points. */
export function storeGrid(
  name: string,
  stored: Omit<StoredInteger, "codes">,
): Map<string, TensorData> {
  const { type, scales, shape: [rows] } = stored;
  const groups = scales.length / 2 / rows;
  const tensors = new Map<string, TensorData>([[`${name}_scale`, storedScales(stored)]]);
  if (isSymmetric(stored)) return tensors;
  if (hasOwnZeros(stored)) return tensors.set(`${name}_zero_point`, storedZeros(stored));
  const zeros = wholeZeros(name, stored);
  // Down the columns: turned, packed along rows, and turned back.
  const packed = packCodes(turned(Uint8Array.from(zeros), rows, groups), BITS[type], rows);
  const height = packed.length / groups;
  tensors.set(`${name}_zero_point`, {
    dtype: "I32",
    shape: [height, groups],
    data: Int32Array.from(packed, (_, i) => packed[i % groups * height + Math.floor(i / groups)]),
  });
  return tensors;
}

/** The shape of a weight that is stored as packed integers. */
async function shapeOf(source: TensorSource, name: string): Promise<[number, number]> {
  const entry = source.entries.get(`${name}_shape`);
  if (entry && sameShape(entry.shape, [2]) && (entry.dtype === "I64" || entry.dtype === "I32")) {
    const bytes = await source.read(`${name}_shape`);
    const numbers = entry.dtype === "I64"
      ? Array.from(new BigInt64Array(bytes.buffer, bytes.byteOffset, 2), Number)
      : Array.from(new Int32Array(bytes.buffer, bytes.byteOffset, 2));
    if (numbers.every((size) => Number.isSafeInteger(size) && size > 0)) {
      return numbers as [number, number];
    }
  }
  throw integerFault(
    name,
    `it has no "${name}_shape" with two sizes; is the checkpoint complete?`,
  );
}

async function wordsOf(source: TensorSource, name: string): Promise<Int32Array> {
  const bytes = await source.read(name);
  return new Int32Array(bytes.buffer, bytes.byteOffset, bytes.length / 4);
}

/**
 * Reads a weight that is stored as packed integers.
 *
 * @param source the checkpoint
 * @param name the weight's name
 * @param groupSizes those that config.json names
 * @param said the type that config.json names for it: where a row is a word or two, those of several types may fit
 * @throws {RangeError} if its tensors do not fit each other, or a size that config.json does not name
 * @throws {TypeError} if its columns are in another order
 */
export async function readInteger(
  source: TensorSource,
  name: string,
  groupSizes: readonly number[],
  said?: IntegerType,
): Promise<StoredInteger> {
  const fault = (problem: string) => integerFault(name, problem);
  const [rows, columns] = await shapeOf(source, name);
  const entry = (part: string) => source.entries.get(`${name}_${part}`);
  const packed = entry("packed")!;
  const type = ([said, "int4", "int8", "int3", "int2"] as const).find((own) =>
    own && sameShape(packed.shape, [rows, Math.ceil(columns * BITS[own] / 32)])
  );
  if (!type || packed.dtype !== "I32") {
    throw fault(
      `found ${packed.dtype} ${
        showShape(packed.shape)
      } for [${rows},${columns}], wanted I32 with codes of 8, 4, 3 or 2 bits`,
    );
  }
  if (entry("g_idx")) {
    throw new TypeError(
      `Cannot read the integer weight "${name}": its columns are in another order ("${name}_g_idx"), wanted none; use the model that it was made from`,
    );
  }
  const grid = await readGrid(source, name, [rows, columns], groupSizes, type);
  const words = await wordsOf(source, `${name}_packed`);
  const codes = unpackCodes(words, BITS[type], rows * columns, columns);
  return { type, shape: [rows, columns], ...grid, codes };
}

/**
 * Reads what `storeGrid` stored.
 *
 * @throws {RangeError} if the tensors do not fit a weight of that shape, or a size that is not among those given
 */
export async function readGrid(
  source: TensorSource,
  name: string,
  shape: readonly [rows: number, columns: number],
  groupSizes: readonly number[],
  type: IntegerType,
): Promise<Pick<StoredInteger, "groupSize" | "scales">> {
  const fault = (problem: string) => integerFault(name, problem);
  const [rows] = shape;
  const { groups, groupSize, scales } = await readScales(source, name, shape, groupSizes, type);
  const bits = BITS[type];
  const zero = source.entries.get(`${name}_zero_point`);
  if (zero?.dtype === "F16" || zero?.dtype === "F32") {
    const own = await source.readFloats(`${name}_zero_point`);
    if (!sameShape(zero.shape, [rows, groups]) || !own.every(Number.isFinite)) {
      throw fault(
        `its zero points are ${showShape(zero.shape)}, wanted [${rows},${groups}] finite numbers`,
      );
    }
    own.forEach((value, i) => scales[2 * i + 1] = value);
  } else if (zero) {
    const height = Math.ceil(rows * bits / 32);
    if (zero.dtype !== "I32" || !sameShape(zero.shape, [height, groups])) {
      throw fault(
        `its zero points are ${zero.dtype} ${
          showShape(zero.shape)
        }, wanted I32 [${height},${groups}]`,
      );
    }
    const words = await wordsOf(source, `${name}_zero_point`);
    const down = Int32Array.from(
      words,
      (_, i) => words[i % height * groups + Math.floor(i / height)],
    );
    turned(unpackCodes(down, bits, rows * groups, rows), groups, rows).forEach((value, i) =>
      scales[2 * i + 1] = value
    );
  }
  return { groupSize, scales };
}
