/**
 * Softmax over the last axis.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import code from "./softmax.wgsl" with { type: "text" };
import backwardCode from "./softmax_backward.wgsl" with { type: "text" };

const forward = kernel("softmax", ROWS_WGSL + code);
const backward = kernel("softmax_backward", ROWS_WGSL + backwardCode);

/**
 * `exp(x) / Σ exp(x)` over the last axis, computed from `x − max(x)` so that nothing overflows.
 *
 * @param x f32 [..., columns]
 * @returns f32 of the same shape; each row sums to 1
 *
 * @example
 * ```ts
 * import { openDevice, softmax, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(await softmax(tensor(device, new Float32Array([0, 0]))).read()); // Float32Array(2) [ 0.5, 0.5 ]
 * ```
 */
export function softmax(x: Tensor): Tensor {
  checkDType("take the softmax", x, "f32");
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const split = splitRows(device, columns);
  const grid = rowGrid(rows, split);
  const y = empty(device, x.shape);
  device.dispatch(forward, [x, y, uniform(rows, columns)], grid, { ...split });
  return track("softmax", y, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(backward, [y, g, dX, uniform(rows, columns)], grid, { ...split });
    return [dX];
  });
}
