/**
 * Layer normalization.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { slice } from "../pointwise/slice.ts";
import { sum } from "../reduce/sum.ts";
import { KernelMemo } from "../quads.ts";
import {
  chooseWalkSums,
  HELD_TWO,
  type HeldRows,
  holdRows,
  rowCode,
  rowGrid,
  ROWS_WGSL,
  splitRows,
  walkGrid,
  type WalkSums,
  walkSumsCode,
} from "../rows.ts";
import code from "./layer_norm.wgsl" with { type: "text" };
import backwardCode from "./layer_norm_backward.wgsl" with { type: "text" };
import gainCode from "./layer_norm_gain.wgsl" with { type: "text" };
import heldCode from "./layer_norm_held.wgsl" with { type: "text" };
import heldBackwardCode from "./layer_norm_held_backward.wgsl" with { type: "text" };
import { pieceSums } from "./piece_sums.ts";
import slotSumCode from "./slot_sum.wgsl" with { type: "text" };

const forward = kernel("layer_norm", ROWS_WGSL + code);
const backward = kernel("layer_norm_backward", ROWS_WGSL + backwardCode);
const gainBackward = kernel("layer_norm_gain", gainCode);
const held = new KernelMemo((group: 4 | 1, count: number) =>
  kernel("layer_norm", rowCode(group, count, heldCode))
);
const heldBackward = new KernelMemo((group: 4 | 1, count: number, sums: WalkSums) =>
  kernel(
    "layer_norm_backward",
    rowCode(group, count, walkSumsCode(sums) + slotSumCode + heldBackwardCode),
  )
);

/**
 * `(x − mean(x)) / √(variance(x) + ε) · gain + bias` over the last axis; the variance is the mean square deviation.
 * Ba, Kiros and Hinton, "Layer normalization" (arXiv 1607.06450).
 *
 * @param x f32 [..., columns]
 * @param gain f32 [columns]
 * @param bias f32 [columns]
 * @param epsilon added to the variance; GPT-2's 1e-5 by default
 * @returns f32 of x's shape
 * @throws {RangeError} if `gain` or `bias` does not have as many elements as x has columns
 *
 * @example
 * ```ts
 * import { layerNorm, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 3]), [1, 2]);
 * const gain = tensor(device, new Float32Array([1, 1]));
 * const bias = tensor(device, new Float32Array([0, 10]));
 * console.log(await layerNorm(x, gain, bias).read()); // [ -0.99999…, 10.99999… ]
 * ```
 */
export function layerNorm(x: Tensor, gain: Tensor, bias: Tensor, epsilon = 1e-5): Tensor {
  for (const [name, t] of [["x", x], ["gain", gain], ["bias", bias]] as const) {
    checkDType("normalize", t, "f32", name);
  }
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  checkIsShape("normalize", gain, [columns], "gain");
  checkIsShape("normalize", bias, [columns], "bias");
  const out = empty(device, x.shape);
  const stats = empty(device, [rows, 2]);
  const hold = holdRows(device, columns);
  if (hold) {
    const { group, count, split } = hold;
    const params = uniform(rows, columns / group, floatBits(columns), floatBits(epsilon));
    const bindings = [x, gain, bias, out, stats, params];
    device.dispatch(held.get(group, count), bindings, rowGrid(rows, split), { ...split });
  } else {
    const split = splitRows(device, columns);
    const params = uniform(rows, columns, floatBits(epsilon));
    const bindings = [x, gain, bias, out, stats, params];
    device.dispatch(forward, bindings, rowGrid(rows, split), { ...split });
  }
  return track("layer_norm", out, [x, gain, bias], (g, needs, earlier) => {
    const hold = holdRows(device, columns, HELD_TWO);
    const operands = { x: kept(x), gain, stats, g };
    const add = needs[0] ? earlier.take(0) : undefined;
    const wanted = needs[1] || needs[2];
    if (hold && needs[0]) return heldGradients(operands, hold, wanted, add);
    const dX = needs[0] ? gradientOfX(operands, add) : null;
    const [dGain, dBias] = wanted ? parameterGradients(operands) : [null, null];
    return [dX, dGain, dBias];
  }, [x]);
}

/**
 * Workgroups of 256 invocations, or half as many of them twice as often, that walk rows in the backward pass: as each loads ahead,
 * one for each multiprocessor of an H100 is fastest, and leaves the fewest pieces.
 */
const WALKERS = 132;
const WALKER_THREADS = 256;

/** What the backward pass has. */
interface Operands {
  readonly x: Tensor;
  readonly gain: Tensor;
  readonly stats: Tensor;
  readonly g: Tensor;
}

/** All gradients from one reading of x and d out. */
function heldGradients(
  { x, gain, stats, g }: Operands,
  { group, count, split }: HeldRows,
  withGain: boolean,
  add?: Tensor,
): [Tensor, Tensor | null, Tensor | null] {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const dX = empty(device, x.shape);
  const share = Math.max(1, WALKER_THREADS / (split.LANES * split.ROWS));
  const grid = walkGrid(rows, split, withGain, WALKERS * share);
  const shape = withGain ? [grid[0], columns] : [1];
  const pieces = [empty(device, shape), empty(device, shape)];
  const flags = [add ? 1 : 0, withGain ? 1 : 0];
  const params = uniform(rows, columns / group, floatBits(columns), ...flags);
  const bindings = [x, gain, g, add ?? g, stats, dX, ...pieces, params];
  const found = heldBackward.get(group, count, chooseWalkSums(device));
  device.dispatch(found, bindings, grid, { ...split });
  return withGain ? [dX, ...pieceSums(pieces[0], pieces[1])] : [dX, null, null];
}

function gradientOfX({ x, gain, stats, g }: Operands, add?: Tensor): Tensor {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const dX = empty(device, x.shape);
  const split = splitRows(device, columns);
  const params = uniform(rows, columns, add ? 1 : 0);
  const bindings = [x, gain, stats, g, add ?? g, dX, params];
  device.dispatch(backward, bindings, rowGrid(rows, split), { ...split });
  return dX;
}

/** The gradients of gain and bias, which need the same numbers. */
function parameterGradients({ x, stats, g }: Operands): [gain: Tensor, bias: Tensor] {
  const { device } = x;
  const [rows, columns] = rowsAndColumns(x);
  const parts = Math.max(1, Math.min(Math.floor(rows / 32), Math.ceil(32_768 / columns)));
  const pieces = empty(device, [2, parts, columns]);
  const params = uniform(rows, columns, parts);
  const grid = gridOf(Math.ceil(parts * columns / 64));
  device.dispatch(gainBackward, [x, stats, g, pieces, params], grid);
  const both = sum(pieces, { axis: 1 });
  const part = (start: number) => viewOf(slice(both, { axis: 0, start, length: 1 }), [columns]);
  return [part(0), part(1)];
}
