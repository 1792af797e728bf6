/**
 * Sums of groups along rows, the last of which may be shorter.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import code from "./group_sum.wgsl" with { type: "text" };

const groupSumKernel = kernel("group_sum", code);

/**
 * The sum of each group. No gradient flows through it.
 *
 * @param x f32 [..., columns]
 * @param groupSize numbers along a row that make a group
 * @returns f32 [rows, groups]
 */
export function groupSum(x: Tensor, groupSize: number): Tensor {
  const columns = x.shape.at(-1) ?? 1;
  const rows = x.size / columns;
  const perRow = Math.ceil(columns / groupSize);
  if (columns % groupSize === 0) {
    const sums = sum(viewOf(x, [rows * perRow, groupSize]), { axis: 1 });
    return viewOf(sums, [rows, perRow]);
  }
  const groups = rows * perRow;
  const sums = empty(x.device, [rows, perRow]);
  const params = uniform(groups, perRow, columns, groupSize);
  x.device.dispatch(groupSumKernel, [x, sums, params], gridOf(groups));
  return sums;
}
