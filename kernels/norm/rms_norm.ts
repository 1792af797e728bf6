/**
 * Root-mean-square normalization.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import { pickQuads, quadKernels } from "../quads.ts";
import { ONE_LANE, ONE_LANE_WGSL, rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import code from "./rms_norm.wgsl" with { type: "text" };
import backwardCode from "./rms_norm_backward.wgsl" with { type: "text" };
import gainCode from "./rms_norm_gain.wgsl" with { type: "text" };

const preamble = { gpu: ROWS_WGSL, software: ONE_LANE_WGSL };
const forward = quadKernels("rms_norm", ["x", "gain"], code, preamble);
const backwardInputs = ["x", "gain", "d_out", "earlier"];
const backward = quadKernels("rms_norm_backward", backwardInputs, backwardCode, preamble);
const gainBackward = kernel("rms_norm_gain", gainCode);

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
  const oneLane = device.adapter.type === "software" && columns % 4 === 0;
  const split = oneLane ? ONE_LANE : splitRows(device, columns);
  const grid = rowGrid(rows, split);
  const out = empty(device, x.shape);
  const inverse = empty(device, [rows]);
  const { group, kernel, bind } = pickQuads(device, forward, columns);
  const params = uniform(rows, columns / group, floatBits(columns), floatBits(epsilon));
  device.dispatch(kernel, [bind(x), bind(gain), out, inverse, params], grid, { ...split });
  return track("rms_norm", out, [x, gain], (g, needs, earlier) => {
    let dX: Tensor | null = null;
    if (needs[0]) {
      dX = empty(device, x.shape);
      const add = earlier.take(0);
      const { kernel, bind } = pickQuads(device, backward, columns);
      const params = uniform(rows, columns / group, floatBits(columns), add ? 1 : 0);
      const inputs = [x, gain, g, add ?? x].map(bind);
      device.dispatch(kernel, [...inputs, inverse, dX, params], grid, { ...split });
    }
    return [dX, needs[1] ? gainGradient(x, inverse, g, rows, columns) : null];
  });
}

function gainGradient(
  x: Tensor,
  inverse: Tensor,
  g: Tensor,
  rows: number,
  columns: number,
): Tensor {
  const { device } = x;
  const parts = Math.max(1, Math.min(Math.floor(rows / 32), Math.ceil(32_768 / columns)));
  const out = empty(device, [parts, columns]);
  const params = uniform(rows, columns, parts);
  device.dispatch(gainBackward, [x, inverse, g, out, params], gridOf(Math.ceil(out.size / 64)));
  return sum(out, { axis: 0 });
}
