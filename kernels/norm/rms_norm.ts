/**
 * Root-mean-square normalization.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import { KernelMemo, pickQuads, quadKernels } from "../quads.ts";
import {
  HELD_TWO,
  type HeldRows,
  holdRows,
  ONE_LANE,
  ONE_LANE_WGSL,
  rowCode,
  rowGrid,
  ROWS_WGSL,
  type RowSplit,
  splitRows,
  walkGrid,
} from "../rows.ts";
import code from "./rms_norm.wgsl" with { type: "text" };
import backwardCode from "./rms_norm_backward.wgsl" with { type: "text" };
import gainCode from "./rms_norm_gain.wgsl" with { type: "text" };
import heldCode from "./rms_norm_held.wgsl" with { type: "text" };
import heldRowCode from "./rms_norm_held_row.wgsl" with { type: "text" };
import heldBackwardCode from "./rms_norm_held_backward.wgsl" with { type: "text" };
import slotSumCode from "./slot_sum.wgsl" with { type: "text" };

const preamble = { gpu: ROWS_WGSL, software: ONE_LANE_WGSL };
const forward = quadKernels("rms_norm", ["x", "gain"], code, preamble);
const backwardInputs = ["x", "gain", "d_out", "earlier"];
const backward = quadKernels("rms_norm_backward", backwardInputs, backwardCode, preamble);
const gainBackward = kernel("rms_norm_gain", gainCode);
const held = new KernelMemo((group: 4 | 1, count: number) =>
  kernel("rms_norm", heldRowsCode(group, count, heldCode))
);
const heldBackward = new KernelMemo((group: 4 | 1, count: number) =>
  kernel("rms_norm_backward", rowCode(group, count, slotSumCode + heldBackwardCode))
);

/** WGSL of a kernel that holds rows in registers, and their inverse root mean squares: both stand where it has ROW. */
export function heldRowsCode(group: 4 | 1, count: number, code: string): string {
  return rowCode(group, count, code.replace(/\bROW\b/, () => heldRowCode));
}

/**
 * `x / √(mean(x²) + ε) · gain` over the last axis.
 * Zhang and Sennrich, "Root mean square layer normalization" (arXiv 1910.07467).
 *
 * @param x f32 [..., columns]
 * @param gain f32 [columns]
 * @param epsilon added to the mean square; Llama's 1e-5 by default
 * @returns f32 of x's shape
 * @throws {RangeError} if `gain` does not have as many elements as x has columns
 *
 * @example
 * ```ts
 * import { openDevice, rmsNorm, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([3, 4]), [1, 2]);
 * const gain = tensor(device, new Float32Array([1, 1]));
 * console.log(await rmsNorm(x, gain).read()); // [ 0.8485…, 1.1313… ]
 * ```
 */
export function rmsNorm(x: Tensor, gain: Tensor, epsilon = 1e-5): Tensor {
  checkDType("normalize", x, "f32");
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  checkIsShape("normalize", gain, [columns], "gain");
  const out = empty(device, x.shape);
  const inverse = empty(device, [rows]);
  const epsilonBits = floatBits(epsilon);
  const hold = holdRows(device, columns);
  if (hold) {
    const { group, count, split } = hold;
    const params = uniform(rows, columns / group, floatBits(columns), epsilonBits);
    const bindings = [x, gain, out, inverse, params];
    device.dispatch(held.get(group, count), bindings, rowGrid(rows, split), { ...split });
  } else {
    const { group, kernel, bind } = pickQuads(device, forward, columns);
    const params = uniform(rows, columns / group, floatBits(columns), epsilonBits);
    const split = loopSplit(device, columns);
    const bindings = [bind(x), bind(gain), out, inverse, params];
    device.dispatch(kernel, bindings, rowGrid(rows, split), { ...split });
  }
  return track("rms_norm", out, [x, gain], (g, needs, earlier) => {
    const hold = holdRows(device, columns, HELD_TWO);
    const operands = { x: kept(x), gain, inverse, g };
    const add = needs[0] ? earlier.take(0) : undefined;
    if (hold && needs[0]) return heldGradients(operands, hold, needs[1], add);
    return [
      needs[0] ? gradientOfX(operands, add) : null,
      needs[1] ? gainGradient(operands) : null,
    ];
  }, [x]);
}

/** What the backward pass has. */
interface Operands {
  readonly x: Tensor;
  readonly gain: Tensor;
  readonly inverse: Tensor;
  readonly g: Tensor;
}

/** Lanes where rows are walked in a loop. */
function loopSplit(device: Device, columns: number): RowSplit {
  const oneLane = device.adapter.type === "software" && columns % 4 === 0;
  return oneLane ? ONE_LANE : splitRows(device, columns);
}

/** Both gradients from one reading of x and d out. */
function heldGradients(
  { x, gain, inverse, g }: Operands,
  { group, count, split }: HeldRows,
  withGain: boolean,
  add?: Tensor,
): [Tensor, Tensor | null] {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const dX = empty(device, x.shape);
  const grid = walkGrid(rows, split, withGain);
  const pieces = empty(device, withGain ? [grid[0], columns] : [1]);
  const flags = [add ? 1 : 0, withGain ? 1 : 0];
  const params = uniform(rows, columns / group, floatBits(columns), ...flags);
  const bindings = [x, gain, g, add ?? g, inverse, dX, pieces, params];
  device.dispatch(heldBackward.get(group, count), bindings, grid, { ...split });
  return [dX, withGain ? sum(pieces, { axis: 0 }) : null];
}

function gradientOfX({ x, gain, inverse, g }: Operands, add?: Tensor): Tensor {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const dX = empty(device, x.shape);
  const { group, kernel, bind } = pickQuads(device, backward, columns);
  const params = uniform(rows, columns / group, floatBits(columns), add ? 1 : 0);
  const inputs = [x, gain, g, add ?? x].map(bind);
  const split = loopSplit(device, columns);
  device.dispatch(kernel, [...inputs, inverse, dX, params], rowGrid(rows, split), { ...split });
  return dX;
}

function gainGradient({ x, inverse, g }: Operands): Tensor {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const parts = Math.max(1, Math.min(Math.floor(rows / 32), Math.ceil(32_768 / columns)));
  const out = empty(device, [parts, columns]);
  const params = uniform(rows, columns, parts);
  device.dispatch(gainBackward, [x, inverse, g, out, params], gridOf(Math.ceil(out.size / 64)));
  return sum(out, { axis: 0 });
}
