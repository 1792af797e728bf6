/**
 * Shapes, the checks on them, and the wording of every shape error, once.
 *
 * @module
 */
import type { DType, Tensor } from "./tensor.ts";

/** `[2, 3]` as the text `[2,3]`, the form in which every error shows a shape. */
export function showShape(shape: readonly number[]): string {
  return `[${shape.join(",")}]`;
}

/** The number of elements of a shape; 1 for a scalar `[]`. */
export function sizeOf(shape: readonly number[]): number {
  let size = 1;
  for (const length of shape) size *= length;
  return size;
}

/** Whether two shapes are equal in rank and in every length. */
export function sameShape(a: readonly number[], b: readonly number[]): boolean {
  return a.length === b.length && a.every((length, axis) => length === b[axis]);
}

/** Throws a RangeError unless every length is a whole number of at least 0. */
export function checkShape(shape: readonly number[]): void {
  for (const length of shape) {
    if (!Number.isSafeInteger(length) || length < 0) {
      throw new RangeError(
        `Cannot make a tensor of shape ${showShape(shape)}: every length must be a whole number`,
      );
    }
  }
}

/** Throws a RangeError unless `tensor` has the shape that `action` wants. A −1 in `wanted` fits any length. */
export function checkIsShape(
  action: string,
  tensor: Tensor,
  wanted: readonly number[],
  name = "tensor",
): void {
  const fits = tensor.shape.length === wanted.length &&
    wanted.every((length, axis) => length === -1 || length === tensor.shape[axis]);
  if (fits) return;
  const shape = wanted.map((length) => length === -1 ? "any" : String(length)).join(",");
  throw new RangeError(
    `Cannot ${action}: ${name} has shape ${showShape(tensor.shape)}, wanted [${shape}]`,
  );
}

/** Throws a RangeError unless both tensors have the same shape. */
export function checkSameShape(action: string, a: Tensor, b: Tensor): void {
  if (sameShape(a.shape, b.shape)) return;
  throw new RangeError(
    `Cannot ${action} ${showShape(a.shape)} and ${showShape(b.shape)}: the shapes must be equal`,
  );
}

/** Throws a RangeError unless `tensor` has `rank` axes. */
export function checkRank(action: string, tensor: Tensor, rank: number, name = "tensor"): void {
  if (tensor.shape.length === rank) return;
  throw new RangeError(
    `Cannot ${action}: ${name} has shape ${showShape(tensor.shape)}, wanted ${rank} axes`,
  );
}

/** Throws a TypeError unless `tensor` has one of the data types that `action` works on. */
export function checkDType(
  action: string,
  tensor: Tensor,
  wanted: DType | readonly DType[],
  name = "tensor",
): void {
  const list = typeof wanted === "string" ? [wanted] : wanted;
  if (list.includes(tensor.dtype)) return;
  throw new TypeError(
    `Cannot ${action}: ${name} holds ${tensor.dtype}, wanted ${list.join(" or ")}`,
  );
}

/** Rows and columns of a tensor seen as a matrix: all axes but the last are rows. */
export function rowsAndColumns(tensor: Tensor): [rows: number, columns: number] {
  const columns = tensor.shape.at(-1) ?? 1;
  return [columns === 0 ? 0 : tensor.size / columns, columns];
}

/**
 * The shape that two operands broadcast to, by NumPy's rule: shapes are aligned at their last axis, and a length of 1 (or a
 * missing axis) stretches.
 */
export function broadcastShape(
  action: string,
  a: readonly number[],
  b: readonly number[],
): number[] {
  const rank = Math.max(a.length, b.length);
  const out: number[] = [];
  for (let axis = 0; axis < rank; axis++) {
    const p = a[axis - rank + a.length] ?? 1;
    const q = b[axis - rank + b.length] ?? 1;
    if (p !== q && p !== 1 && q !== 1) {
      throw new RangeError(
        `Cannot ${action} ${showShape(a)} and ${showShape(b)}: lengths ${p} and ${q} of axis ${
          axis - rank
        } differ and neither is 1`,
      );
    }
    out.push(p === 1 ? q : p);
  }
  return out;
}
