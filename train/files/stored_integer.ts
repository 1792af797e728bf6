/**
 * Integer weights in checkpoints, whichever way their codes lie: what the layouts of compressed-tensors have in common.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { INTEGER_BITS, type IntegerType, zeroBits } from "../../kernels/quant/integer.ts";
import type { IntegerParts } from "../../kernels/quant/integer_codes.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";

/** An integer weight as a checkpoint holds it. */
export interface StoredInteger extends IntegerParts {
  /** [rows, columns]. */
  readonly shape: readonly [rows: number, columns: number];
}

/** Bits of a code. */
export const BITS = INTEGER_BITS;

/** Whether no zero is anywhere but in the middle of the codes. */
export function isSymmetric({ type, scales }: Pick<IntegerParts, "type" | "scales">): boolean {
  const middle = 2 ** (BITS[type] - 1);
  return scales.every((value, i) => i % 2 === 0 || value === middle);
}

/** Scales without zeros, F32 [rows, groups]. */
export function storedScales(
  { scales, shape: [rows] }: Pick<StoredInteger, "scales" | "shape">,
): TensorData {
  const groups = scales.length / 2 / rows;
  const data = Float32Array.from({ length: rows * groups }, (_, i) => scales[2 * i]);
  return { dtype: "F32", shape: [rows, groups], data };
}

/** Whether zeros lie between whole numbers, as HQQ's do: only nibble reads those. */
export function hasOwnZeros({ type, scales }: Pick<IntegerParts, "type" | "scales">): boolean {
  return zeroBits(type, scales) > BITS[type];
}

/** Zeros without scales, as floats [rows, groups]: F16 if those are exact, else F32. */
export function storedZeros(
  { type, scales, shape: [rows] }: Omit<StoredInteger, "codes">,
): TensorData {
  const zeros = Float32Array.from({ length: scales.length / 2 }, (_, i) => scales[2 * i + 1]);
  const shape = [rows, zeros.length / rows];
  return zeroBits(type, scales) <= 16
    ? { dtype: "F16", shape, data: new Float16Array(zeros) }
    : { dtype: "F32", shape, data: zeros };
}

/**
 * Zeros without scales, [rows, groups].
 *
 * @throws {TypeError} if one is no whole number, as HQQ's are: not all layouts have a place for those
 */
export function wholeZeros(
  name: string,
  { type, scales }: Pick<StoredInteger, "type" | "scales">,
): number[] {
  const zeros = Array.from({ length: scales.length / 2 }, (_, i) => scales[2 * i + 1]);
  const most = 2 ** BITS[type] - 1;
  const wrong = zeros.find((zero) => !Number.isInteger(zero) || zero < 0 || zero > most);
  if (wrong === undefined) return zeros;
  throw new TypeError(
    `Cannot store "${name}" as integers: it has a zero point of ${wrong}, wanted whole numbers from 0 to ${most}; HQQ's ` +
      "zeros lie between, so save such a model with dequantize: true",
  );
}

/** Whether a checkpoint holds a weight as bytes of whole numbers, not packed. */
export function isBytes(source: TensorSource, name: string): boolean {
  return source.entries.get(name)?.dtype === "I8" && source.entries.has(`${name}_scale`);
}

/** Whether a checkpoint holds a weight as packed integers. */
export function isPacked(source: TensorSource, name: string): boolean {
  return source.entries.has(`${name}_packed`);
}

/** Whether a checkpoint holds a weight as integers. */
export function isInteger(source: TensorSource, name: string): boolean {
  return isPacked(source, name) || isBytes(source, name);
}

/** What the tensors are called that say what a layer with this weight does to its inputs. */
export function inputNames(
  weight: string,
): Readonly<Record<"scale" | "zero" | "before" | "after" | "block", string>> {
  const own = `${weight.replace(/weight$/, "")}input_`;
  return {
    ...{ scale: `${own}scale`, zero: `${own}zero_point` },
    ...{ before: `${own}before`, after: `${own}after`, block: `${own}block` },
  };
}

/** The integer weight that a tensor is or is a part of, or null: of `up.weight_scale` and `up.input_scale` it is `up.weight`. */
export function integerWeightOf(source: TensorSource, name: string): string | null {
  const [, layer] = /^(.*)input_(?:scale|zero_point|before|after|block)$/.exec(name) ?? [];
  const [, part] = /^(.+)_(?:packed|scale|zero_point|shape)$/.exec(name) ?? [];
  const candidates = [name, layer === undefined ? part : `${layer}weight`];
  return candidates.find((own) => own !== undefined && isInteger(source, own)) ?? null;
}

/**
 * Reads the scales of a weight [rows, columns], with zeros in the middle of the codes, and says how many weights share one.
 *
 * @param groupSizes those that config.json names
 * @throws {RangeError} if there are none of that shape, or of a size that config.json does not name
 */
export async function readScales(
  source: TensorSource,
  name: string,
  [rows, columns]: readonly [number, number],
  groupSizes: readonly number[],
  type: IntegerType,
): Promise<{ groups: number; groupSize: number; scales: Float32Array<ArrayBuffer> }> {
  const scale = source.entries.get(`${name}_scale`);
  const groups = scale?.shape[1] ?? 0;
  if (!scale || !sameShape(scale.shape, [rows, groups]) || groups === 0) {
    throw integerFault(
      name,
      `its scales are ${scale ? showShape(scale.shape) : "missing"}, wanted [${rows},groups]`,
    );
  }
  const groupSize = groups === 1
    ? columns
    : groupSizes.find((size) => Math.ceil(columns / size) === groups);
  if (groupSize === undefined) {
    throw integerFault(
      name,
      `it has ${groups} scales for ${columns} columns, but is said to have groups of ${
        groupSizes.join(", ") || "no size"
      }`,
    );
  }
  const own = await source.readFloats(`${name}_scale`);
  if (!own.every(Number.isFinite)) {
    throw integerFault(name, "a scale is NaN or infinite; fetch the model again");
  }
  const scales = new Float32Array(2 * rows * groups).fill(2 ** (BITS[type] - 1));
  own.forEach((value, i) => scales[2 * i] = value);
  return { groups, groupSize, scales };
}

/** What is wrong with an integer weight. */
export function integerFault(name: string, problem: string): RangeError {
  return new RangeError(`Cannot read the integer weight "${name}": ${problem}`);
}
