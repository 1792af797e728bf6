/**
 * Scales and zero points of groups of numbers, from their ranges, on the device: for whole numbers whose steps follow what is
 * quantized. Beside it, an observer's running mean of ranges.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { type AffineScheme, levelsOf } from "./affine.ts";
import rangesCode from "./group_ranges.wgsl" with { type: "text" };
import observeCode from "./observe_range.wgsl" with { type: "text" };
import gridCode from "./range_grid.wgsl" with { type: "text" };
import totalCode from "./total_range.wgsl" with { type: "text" };

const rangesKernel = kernel("group_ranges", rangesCode);
const totalKernel = kernel("total_range", totalCode);
const gridKernel = kernel("range_grid", gridCode);
const observeKernel = kernel("observe_range", observeCode);

/** Longer groups are shared by the invocations of a workgroup. */
const SHORT = 64;

/** What turns numbers into whole ones and back, for each group. */
export interface GroupGrid {
  /** f32: the steps; 0 where there is nothing but zeros, which stay as they are. */
  readonly scales: Tensor;
  /** f32, as scales: the whole number that stands for 0. */
  readonly zeros: Tensor;
}

/**
 * The least and the largest number of each group.
 *
 * @param x f32 [..., columns]
 * @param groupSize numbers along a row that make a group; the last one of a row may be shorter
 * @returns f32 [rows, groups, 2]
 */
export function groupRanges(x: Tensor, groupSize: number): Tensor {
  checkDType("find ranges", x, "f32");
  const columns = x.shape.at(-1) ?? 1;
  if (!Number.isSafeInteger(groupSize) || groupSize < 1) {
    throw new RangeError(
      `Cannot find ranges in groups of ${groupSize} along ${showShape(x.shape)}: wanted a whole ` +
        "number above 0",
    );
  }
  const rows = x.size / columns;
  const perRow = Math.ceil(columns / groupSize);
  const groups = rows * perRow;
  const ranges = empty(x.device, [rows, perRow, 2]);
  const isShort = Math.min(groupSize, columns) <= SHORT;
  x.device.dispatch(
    rangesKernel,
    [x, ranges, uniform(groups, perRow, columns, groupSize)],
    gridOf(isShort ? Math.ceil(groups / 64) : groups),
    { LANES: isShort ? 1 : 64 },
  );
  return ranges;
}

/** The range of all numbers of x, f32 of any shape: f32 [2]. */
export function totalRange(x: Tensor): Tensor {
  const ranges = groupRanges(x, x.shape.at(-1) ?? 1);
  const total = empty(x.device, [2]);
  x.device.dispatch(totalKernel, [ranges, total, uniform(ranges.size / 2)], gridOf(1));
  return total;
}

/**
 * Scale and zero point of each range, as `affineParameters` has them, but for two things: a range of nothing but 0 gets scale 0,
 * and a device's division may be off in the last bit.
 *
 * @param ranges f32 [..., 2]; a range whose least number is the larger is empty, and gets scale 0 too
 * @param scheme the whole numbers
 * @param shape of the scales and zeros; that of the ranges without the last axis by default
 */
export function rangeGrid(
  ranges: Tensor,
  scheme: AffineScheme,
  shape: readonly number[] = ranges.shape.slice(0, -1),
): GroupGrid {
  const { device } = ranges;
  const { least, most } = levelsOf(scheme);
  const { kind, bits } = scheme;
  const steps = kind === "asymmetric"
    ? 0
    : kind === "symmetric"
    ? 2 ** (bits - 1) - 1
    : (most - least) / 2;
  const grid = { scales: empty(device, shape), zeros: empty(device, shape) };
  const size = ranges.size / 2;
  const words = [least, most, steps, least === 0 ? 2 ** (bits - 1) : 0].map(floatBits);
  device.dispatch(
    gridKernel,
    [ranges, grid.scales, grid.zeros, uniform(size, ...words)],
    gridOf(Math.ceil(size / 64)),
  );
  return grid;
}

/** What an observer of ranges keeps on the device. */
export interface RangeState {
  /** f32 [2]: the running mean of the batches' ranges; 1 and −1, which is empty, to begin with. */
  readonly running: Tensor;
  /** f32 [2]: the same once all steps were looked at; empty before. */
  readonly found: Tensor;
  /** f32 [1]: the step that was looked at last, 0 to begin with. */
  readonly last: Tensor;
}

/** How long an observer looks. */
export interface ObserveOptions {
  /** Steps. */
  readonly steps: number;
  /** The weight of a batch in the running mean: `m + momentum · (batch − m)`. */
  readonly momentum: number;
}

/**
 * Looks at a batch, and updates the state, if the step is one of the first ones and was not looked at yet.
 *
 * @param x f32, the batch
 * @param step u32 [1], counted from 1
 * @param state what the observer keeps
 * @param options how long it looks
 */
export function observeRange(
  x: Tensor,
  step: Tensor,
  { running, found, last }: RangeState,
  { steps, momentum }: ObserveOptions,
): void {
  x.device.dispatch(
    observeKernel,
    [totalRange(x), step, running, found, last, uniform(floatBits(steps), floatBits(momentum))],
    gridOf(1),
  );
}
