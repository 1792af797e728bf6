/**
 * Some columns of a matrix.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, showShape } from "../../core/shape.ts";
import { empty, type Tensor, tensor } from "../../core/tensor.ts";
import { rowsGrid } from "../quads.ts";
import code from "./pick_columns.wgsl" with { type: "text" };

const pickKernel = kernel("pick_columns", code);

/** Invocations of a workgroup. */
const THREADS = { gpu: 256, software: 64 } as const;

/** Columns of matrices with so many, and the way back. */
export interface ColumnChoice {
  /** Columns of the matrix. */
  readonly whole: number;
  /** i32 [chosen]: which, ascending. */
  readonly columns: Tensor;
  /** i32 [whole]: each column's place among the chosen, or −1. */
  readonly places: Tensor;
}

/**
 * Puts a choice of columns on a device; the caller frees its two tensors.
 *
 * @throws {RangeError} unless the columns ascend, are within the matrix, and are at least one
 */
export function columnChoice(
  device: Device,
  columns: readonly number[],
  whole: number,
): ColumnChoice {
  const wrong = columns.findIndex((column, i) =>
    !Number.isInteger(column) || column >= whole || column < (i === 0 ? 0 : columns[i - 1] + 1)
  );
  if (columns.length === 0 || wrong >= 0) {
    throw new RangeError(
      `Cannot pick ${columns.length} columns of ${whole}: found ${
        wrong >= 0 ? columns[wrong] : "none"
      }, wanted ascending whole numbers from 0 to ${whole - 1}`,
    );
  }
  const places = new Int32Array(whole).fill(-1);
  columns.forEach((column, place) => places[column] = place);
  return {
    whole,
    columns: device.keep(tensor(device, Int32Array.from(columns))),
    places: device.keep(tensor(device, places)),
  };
}

function pick(x: Tensor, columns: Tensor): Tensor {
  const length = x.shape.at(-1)!;
  const width = columns.size;
  const rows = x.size / length;
  const out = empty(x.device, x.shape.with(-1, width));
  const { grid, ...split } = rowsGrid(rows, width, THREADS[x.device.adapter.type]);
  const params = uniform(rows, length, width);
  x.device.dispatch(pickKernel, [x, columns, out, params], grid, split);
  return out;
}

/**
 * The chosen columns of `x`, side by side. The gradient of the others is 0.
 *
 * @param x f32 [..., whole]
 * @param choice which, as `columnChoice` makes it
 * @returns f32 [..., chosen]
 * @throws {RangeError} if `x` has another number of columns
 */
export function pickColumns(x: Tensor, choice: ColumnChoice): Tensor {
  checkDType("pick columns of", x, "f32");
  if (x.shape.at(-1) !== choice.whole) {
    throw new RangeError(
      `Cannot pick columns of ${
        showShape(x.shape)
      }: the choice is one of ${choice.whole} columns, found ${x.shape.at(-1)}`,
    );
  }
  return track("pickColumns", pick(x, choice.columns), [x], (g) => [pick(g, choice.places)]);
}
