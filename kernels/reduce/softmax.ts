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
import { KernelMemo } from "../quads.ts";
import { HELD_TWO, holdRows, rowCode, rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import code from "./softmax.wgsl" with { type: "text" };
import backwardCode from "./softmax_backward.wgsl" with { type: "text" };
import heldCode from "./softmax_held.wgsl" with { type: "text" };
import heldBackwardCode from "./softmax_held_backward.wgsl" with { type: "text" };

const looped = kernel("softmax", ROWS_WGSL + code);
const loopedBackward = kernel("softmax_backward", ROWS_WGSL + backwardCode);
const held = new KernelMemo((group: 4 | 1, count: number) =>
  kernel("softmax", rowCode(group, count, heldCode))
);
const heldBackward = new KernelMemo((group: 4 | 1, count: number) =>
  kernel("softmax_backward", rowCode(group, count, heldBackwardCode))
);

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
  const y = empty(device, x.shape);
  forward(x, y);
  return track("softmax", y, [x], (g) => {
    const dX = empty(device, x.shape);
    backward(y, g, dX);
    return [dX];
  });
}

function forward(x: Tensor, y: Tensor): void {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const hold = holdRows(device, columns);
  const { group = 1, split = splitRows(device, columns) } = hold ?? {};
  const chosen = hold ? held.get(hold.group, hold.count) : looped;
  const bindings = [x, y, uniform(rows, columns / group)];
  device.dispatch(chosen, bindings, rowGrid(rows, split), { ...split });
}

function backward(y: Tensor, g: Tensor, dX: Tensor): void {
  const { device } = y;
  const [rows, columns] = rowsAndColumns(y);
  const hold = holdRows(device, columns, HELD_TWO);
  const { group = 1, split = splitRows(device, columns) } = hold ?? {};
  const chosen = hold ? heldBackward.get(hold.group, hold.count) : loopedBackward;
  const bindings = [y, g, dX, uniform(rows, columns / group)];
  device.dispatch(chosen, bindings, rowGrid(rows, split), { ...split });
}
