/**
 * How a layer turns its inputs before it rounds them, in nibble's own model folders. For a layer `up_proj` there are, beside the tensors
 * of the weight that multiplies turned inputs and their `input_scale`,
 *
 * - `up_proj.input_before` and `up_proj.input_after`, F32 [columns]: what each column is multiplied by before it is turned, and then;
 * - `up_proj.input_block`, I32 [1]: how many neighbours are turned together, by a Walsh-Hadamard matrix.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { rotationSize } from "../../kernels/quant/rotate.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";
import { inputNames, integerFault } from "./stored_integer.ts";

/** How inputs are turned, on the host. */
export interface StoredRotation {
  /** f32 [columns]: factors before. */
  readonly before: Float32Array<ArrayBuffer>;
  /** f32 [columns]: factors afterwards. */
  readonly after: Float32Array<ArrayBuffer>;
  /** Neighbours that are turned together. */
  readonly size: number;
}

/** The tensors that stand for a rotation in a checkpoint; `name` is that of the layer's weight. */
export function storeRotation(
  name: string,
  { before, after, size }: StoredRotation,
): Map<string, TensorData> {
  const names = inputNames(name);
  const factors = (data: Float32Array): TensorData => ({
    dtype: "F32",
    shape: [data.length],
    data,
  });
  return new Map<string, TensorData>([
    [names.before, factors(before)],
    [names.after, factors(after)],
    [names.block, { dtype: "I32", shape: [1], data: Int32Array.of(size) }],
  ]);
}

/**
 * Reads what `storeRotation` stored for a weight with so many columns; null if a checkpoint has none.
 *
 * @throws {RangeError} if the tensors do not fit each other, or are not finite
 */
export async function readRotation(
  source: TensorSource,
  name: string,
  columns: number,
): Promise<StoredRotation | null> {
  const names = inputNames(name);
  const all = [names.before, names.after, names.block];
  if (!all.some((own) => source.entries.has(own))) return null;
  const wanted = [["F32", [columns]], ["F32", [columns]], ["I32", [1]]] as const;
  for (const [i, own] of all.entries()) {
    const entry = source.entries.get(own);
    const [dtype, shape] = wanted[i];
    if (entry?.dtype === dtype && sameShape(entry.shape, shape)) continue;
    const found = entry ? `${entry.dtype} ${showShape(entry.shape)}` : "missing";
    throw integerFault(name, `"${own}" is ${found}, wanted ${dtype} ${showShape(shape)}`);
  }
  const [before, after] = await Promise.all([
    source.readFloats(names.before),
    source.readFloats(names.after),
  ]);
  if (![before, after].every((factors) => factors.every(Number.isFinite))) {
    throw integerFault(name, "a factor of its inputs is NaN or infinite; fetch the model again");
  }
  const bytes = await source.read(names.block);
  const [size] = new Int32Array(bytes.buffer, bytes.byteOffset, 1);
  const most = rotationSize(columns);
  if (!(size > 0 && most % size === 0)) {
    throw integerFault(
      name,
      `"${names.block}" is ${size}, wanted a power of two that divides ${columns}, ${most} at most`,
    );
  }
  return { before, after, size };
}
