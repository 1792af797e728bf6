/**
 * Sums and means.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, showShape, sizeOf } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import { broadcastTo } from "../pointwise/elementwise.ts";
import { scale } from "../pointwise/scale.ts";
import { fitsColumns, sumAllGpu, sumColumnsGpu, sumRowsGpu } from "./sum_gpu.ts";
import columnsCode from "./sum.wgsl" with { type: "text" };
import rowsCode from "./sum_rows.wgsl" with { type: "text" };

const columnsKernel = kernel("sum", columnsCode);
const rowsKernel = kernel("sum_rows", ROWS_WGSL + rowsCode);

/** Which axis a reduction removes. */
export interface ReduceOptions {
  /** The axis; negative counts from the end. Without it, all axes. */
  readonly axis?: number;
  /** Keep the axis with length 1. */
  readonly keepAxis?: boolean;
}

/** A shape split around an axis: [outer, length, inner]. */
export function splitAt(shape: readonly number[], axis: number): [number, number, number] {
  return [sizeOf(shape.slice(0, axis)), shape[axis], sizeOf(shape.slice(axis + 1))];
}

/** The axis of a reduction, counted from 0, or an error. */
export function checkAxis(action: string, x: Tensor, axis: number): number {
  const index = axis < 0 ? axis + x.shape.length : axis;
  if (Number.isInteger(index) && index >= 0 && index < x.shape.length) return index;
  throw new RangeError(
    `Cannot ${action} over axis ${axis}: the tensor has shape ${showShape(x.shape)}`,
  );
}

/** Pieces shorter than this are not worth a second pass. */
const PIECE = 512;

function sumColumns(x: Tensor, outer: number, length: number, inner: number): Tensor {
  const { device } = x;
  const parts = Math.max(
    1,
    Math.min(Math.floor(length / PIECE), Math.ceil(65_536 / (outer * inner))),
  );
  const out = empty(device, [outer, parts, inner]);
  const params = uniform(outer, length, inner, parts);
  device.dispatch(columnsKernel, [x, out, params], gridOf(Math.ceil(out.size / 64)));
  return parts === 1 ? out : sumColumns(out, outer, parts, inner);
}

function sumRows(x: Tensor, rows: number, length: number): Tensor {
  const { device } = x;
  const split = splitRows(device, length);
  const out = empty(device, [rows]);
  device.dispatch(rowsKernel, [x, out, uniform(rows, length)], rowGrid(rows, split), { ...split });
  return out;
}

function isFewLong(rows: number, length: number): boolean {
  return rows < 64 && length > 64 * PIECE;
}

/** Sums the middle axis of x seen as [outer, length, inner]; the result's shape is for the caller to give. */
function sumMiddle(x: Tensor, outer: number, length: number, inner: number): Tensor {
  if (x.device.adapter.type === "gpu") {
    if (fitsColumns(outer, inner)) return sumColumnsGpu(x, outer, length, inner);
    if (outer === 1 && inner === 1) return sumAllGpu(x);
    if (inner === 1 && !isFewLong(outer, length)) return sumRowsGpu(x, outer, length);
  }
  if (inner > 1) return sumColumns(x, outer, length, inner);
  // A few long rows: cut each into many, so that the device is busy, and sum the sums.
  if (isFewLong(outer, length)) return sumColumns(x, outer, length, 1);
  return sumRows(x, outer, length);
}

/**
 * The sum over one axis, or over all. The order of summation depends on the shape and the adapter alone, so the result is the
 * same on every run.
 *
 * @param x f32, any shape
 * @param options which axis
 * @returns f32, without the axis (or with it, of length 1)
 *
 * @example
 * ```ts
 * import { openDevice, sum, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4]), [2, 2]);
 * console.log(await sum(x, { axis: 0 }).read(), await sum(x).item()); // Float32Array(2) [ 4, 6 ] 10
 * ```
 */
export function sum(x: Tensor, options: ReduceOptions = {}): Tensor {
  checkDType("sum", x, "f32");
  if (options.axis === undefined) {
    const shape = options.keepAxis ? x.shape.map(() => 1) : [];
    const out = viewOf(sumMiddle(x, 1, x.size, 1), shape);
    return track("sum", out, [x], (g) => [broadcastTo(g, x.shape)]);
  }
  const axis = checkAxis("sum", x, options.axis);
  const kept = x.shape.map((length, i) => i === axis ? 1 : length);
  const shape = options.keepAxis ? kept : kept.toSpliced(axis, 1);
  const out = viewOf(sumMiddle(x, ...splitAt(x.shape, axis)), shape);
  return track("sum", out, [x], (g) => [broadcastTo(viewOf(g, kept), x.shape)]);
}

/**
 * The mean over one axis, or over all: `sum` divided by the number of elements.
 *
 * @example
 * ```ts
 * import { mean, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(await mean(tensor(device, new Float32Array([1, 2, 6]))).item()); // 3
 * ```
 */
export function mean(x: Tensor, options: ReduceOptions = {}): Tensor {
  const total = sum(x, options);
  return scale(total, total.size / x.size);
}
