/**
 * Labels for the next token.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./shift_labels.wgsl" with { type: "text" };

const shiftKernel = kernel("shift_labels", code);

/**
 * Moves every row of labels one place to the left, so that each token's label is the token after it; the last label of a row
 * is −100, which the loss ignores.
 *
 * @param labels i32 [..., length]
 * @returns i32 of the same shape
 *
 * @example
 * ```ts
 * import { openDevice, shiftLabels, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const labels = tensor(device, new Int32Array([5, 6, 7]), [1, 3]);
 * console.log(await shiftLabels(labels).read()); // Int32Array(3) [ 6, 7, -100 ]
 * ```
 */
export function shiftLabels(labels: Tensor): Tensor {
  checkDType("shift", labels, "i32", "labels");
  const [, columns] = rowsAndColumns(labels);
  const { device, size } = labels;
  const out = empty(device, labels.shape, "i32");
  const grid = gridOf(Math.ceil(size / 64));
  device.dispatch(shiftKernel, [labels, out, uniform(size, columns)], grid);
  return out;
}
