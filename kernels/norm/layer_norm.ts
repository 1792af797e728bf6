/**
 * Layer normalization.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { slice } from "../pointwise/slice.ts";
import { sum } from "../reduce/sum.ts";
import { rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import code from "./layer_norm.wgsl" with { type: "text" };
import backwardCode from "./layer_norm_backward.wgsl" with { type: "text" };
import gainCode from "./layer_norm_gain.wgsl" with { type: "text" };

const forward = kernel("layer_norm", ROWS_WGSL + code);
const backward = kernel("layer_norm_backward", ROWS_WGSL + backwardCode);
const gainBackward = kernel("layer_norm_gain", gainCode);

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
  const split = splitRows(device, columns);
  const grid = rowGrid(rows, split);
  const out = empty(device, x.shape);
  const stats = empty(device, [rows, 2]);
  const params = uniform(rows, columns, floatBits(epsilon));
  device.dispatch(forward, [x, gain, bias, out, stats, params], grid, { ...split });
  return track("layer_norm", out, [x, gain, bias], (g, needs, earlier) => {
    let dX: Tensor | null = null;
    if (needs[0]) {
      dX = empty(device, x.shape);
      const add = earlier.take(0);
      const params = uniform(rows, columns, add ? 1 : 0);
      device.dispatch(backward, [x, gain, stats, g, add ?? g, dX, params], grid, { ...split });
    }
    if (!needs[1] && !needs[2]) return [dX, null, null];
    const [dGain, dBias] = parameterGradients(x, stats, g, rows, columns);
    return [dX, needs[1] ? dGain : null, needs[2] ? dBias : null];
  });
}

/** The gradients of gain and bias, which need the same numbers. */
function parameterGradients(
  x: Tensor,
  stats: Tensor,
  g: Tensor,
  rows: number,
  columns: number,
): [gain: Tensor, bias: Tensor] {
  const { device } = x;
  const parts = Math.max(1, Math.min(Math.floor(rows / 32), Math.ceil(32_768 / columns)));
  const pieces = empty(device, [2, parts, columns]);
  const params = uniform(rows, columns, parts);
  const grid = gridOf(Math.ceil(parts * columns / 64));
  device.dispatch(gainBackward, [x, stats, g, pieces, params], grid);
  const both = sum(pieces, { axis: 1 });
  const part = (start: number) => viewOf(slice(both, { axis: 0, start, length: 1 }), [columns]);
  return [part(0), part(1)];
}
