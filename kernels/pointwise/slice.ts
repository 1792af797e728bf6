/**
 * A stretch of an axis.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, showShape, sizeOf } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { groupCode, KernelMemo, rowsGrid } from "../quads.ts";
import code from "./slice.wgsl" with { type: "text" };
import backwardCode from "./slice_backward.wgsl" with { type: "text" };

const forward = new KernelMemo((group: 4 | 1) => kernel("slice", groupCode(group, code)));
const backward = new KernelMemo((group: 4 | 1) =>
  kernel("slice_backward", groupCode(group, backwardCode))
);

/** Invocations of a workgroup. */
const THREADS = { gpu: 256, software: 64 } as const;

/** Which part `slice` takes. */
export interface SliceOptions {
  /** The axis; negative counts from the end. The last by default. */
  readonly axis?: number;
  /** Where the part begins. */
  readonly start: number;
  /** How long it is. */
  readonly length: number;
}

/**
 * The elements `start` to `start + length − 1` along an axis, copied.
 *
 * @param x f32, any shape
 * @param options which part
 * @returns f32 of x's shape, but for the axis
 * @throws {RangeError} if the part is not within the axis
 *
 * @example
 * ```ts
 * import { openDevice, slice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
 * console.log(await slice(x, { start: 1, length: 2 }).read()); // Float32Array(4) [ 2, 3, 5, 6 ]
 * ```
 */
export function slice(x: Tensor, { axis = -1, start, length }: SliceOptions): Tensor {
  checkDType("slice", x, "f32");
  const { device, shape } = x;
  const index = axis < 0 ? axis + shape.length : axis;
  const whole = Number.isInteger(index) ? shape[index] : undefined;
  const isWithin = whole !== undefined && Number.isInteger(start) && Number.isInteger(length) &&
    start >= 0 && length > 0 && start + length <= whole;
  if (!isWithin) {
    throw new RangeError(
      `Cannot slice ${
        showShape(shape)
      }: found axis ${axis}, start ${start} and length ${length}, ` +
        "wanted a part that lies within an axis",
    );
  }
  // A part of any axis is a part of each row, where a row is that axis and all that follow.
  const inner = sizeOf(shape.slice(index + 1));
  const rows = sizeOf(shape.slice(0, index));
  const isWhole = [whole, start, length].every((part) => part * inner % 4 === 0);
  // Single elements on software Vulkan, where groups of four are no faster.
  const group = device.adapter.type === "gpu" && isWhole ? 4 : 1;
  const sizes = [whole, start, length].map((part) => part * inner / group);
  const threads = THREADS[device.adapter.type];
  const out = empty(device, shape.with(index, length));
  const { grid, ...split } = rowsGrid(rows, sizes[2], threads);
  device.dispatch(forward.get(group), [x, out, uniform(rows, ...sizes)], grid, split);
  return track("slice", out, [x], (g, _, earlier) => {
    const dX = empty(device, shape);
    const add = earlier.take(0);
    const params = uniform(rows, ...sizes, add ? 1 : 0);
    const { grid, ...split } = rowsGrid(rows, sizes[0], threads);
    device.dispatch(backward.get(group), [g, add ?? g, dX, params], grid, split);
    return [dX];
  });
}
