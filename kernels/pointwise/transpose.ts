/**
 * Matrices turned over.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./transpose.wgsl" with { type: "text" };

const transposeKernel = kernel("transpose", code);

/**
 * `xᵀ`, copied. Products need no copy: `matmul` reads its operands either way.
 *
 * @param x f32 [rows, columns]
 * @returns f32 [columns, rows]
 *
 * @example
 * ```ts
 * import { openDevice, tensor, transpose } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
 * console.log(await transpose(x).read()); // Float32Array(6) [ 1, 4, 2, 5, 3, 6 ]
 * ```
 */
export function transpose(x: Tensor): Tensor {
  checkRank("transpose", x, 2);
  checkDType("transpose", x, "f32");
  const [rows, columns] = x.shape;
  const out = empty(x.device, [columns, rows]);
  const grid = gridOf(Math.ceil(rows / 16) * Math.ceil(columns / 16));
  x.device.dispatch(transposeKernel, [x, out, uniform(rows, columns)], grid);
  return track("transpose", out, [x], (g) => [transpose(g)]);
}
