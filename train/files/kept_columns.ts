/**
 * Columns of a weight that are kept in 16 bits beside the rest in few, in nibble's own model folders. For a layer `up_proj` there are,
 * beside the tensors of the rest,
 *
 * - `up_proj.weight_kept`, F16 [rows, kept]: what the rest lacks in these columns;
 * - `up_proj.weight_columns`, I32 [kept]: which columns of the whole they are, ascending.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import type { TensorData, TensorSource } from "./safetensors.ts";

/** Columns of a weight in 16 bits. */
export interface KeptColumns {
  /** [rows, kept]. */
  readonly kept: Float16Array<ArrayBuffer>;
  /** Which columns they are. */
  readonly columns: Int32Array<ArrayBuffer>;
}

/** The tensors that stand for kept columns in a checkpoint. */
export function storeKept(name: string, { kept, columns }: KeptColumns): Map<string, TensorData> {
  const count = columns.length;
  return new Map<string, TensorData>([
    [`${name}_kept`, { dtype: "F16", shape: [kept.length / count, count], data: kept }],
    [`${name}_columns`, { dtype: "I32", shape: [count], data: columns }],
  ]);
}

/** The weight that a tensor has kept columns of, or null: of `up.weight_kept` it is `up.weight`. */
export function keptWeightOf(source: TensorSource, name: string): string | null {
  const weight = /^(.+)_(?:kept|columns)$/.exec(name)?.[1];
  return weight !== undefined && source.entries.has(`${weight}_kept`) ? weight : null;
}

/**
 * Reads the kept columns of a weight with so many rows; null if a checkpoint has none of it.
 *
 * @throws {RangeError} if the two tensors do not fit each other, or are not finite
 */
export async function readKept(
  source: TensorSource,
  name: string,
  rows: number,
): Promise<KeptColumns | null> {
  const entry = source.entries.get(`${name}_kept`);
  if (!entry) return null;
  const which = source.entries.get(`${name}_columns`);
  const count = entry.shape.at(-1) ?? 0;
  const fits = sameShape(entry.shape, [rows, count]) && count > 0 && entry.dtype === "F16" &&
    which?.dtype === "I32" && sameShape(which.shape, [count]);
  if (!fits) {
    throw new RangeError(
      `Cannot read the kept columns of "${name}": found ${entry.dtype} ${
        showShape(entry.shape)
      } and ${
        which ? `${which.dtype} ${showShape(which.shape)}` : "no numbers of columns"
      }, wanted F16 [${rows},kept] and I32 [kept]`,
    );
  }
  const [values, columns] = await Promise.all([
    source.read(`${name}_kept`),
    source.read(`${name}_columns`),
  ]);
  const kept = new Float16Array(values.buffer, values.byteOffset, values.length / 2);
  const wrong = kept.find((value) => !Number.isFinite(value));
  if (wrong !== undefined) {
    throw new RangeError(
      `Cannot read the kept columns of "${name}": one is ${wrong}, wanted finite numbers; fetch the model again`,
    );
  }
  return { kept, columns: new Int32Array(columns.buffer, columns.byteOffset, count) };
}
