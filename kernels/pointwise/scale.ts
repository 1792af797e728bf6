/**
 * Multiplication by a number.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { groupCode } from "../quads.ts";
import code from "./scale.wgsl" with { type: "text" };

/** Groups of four, which buffers are padded to, and on software Vulkan single elements, which are no slower there. */
const scaleKernels = {
  gpu: kernel("scale", groupCode(4, code)),
  software: kernel("scale", groupCode(1, code)),
};

/**
 * `factor · x`.
 *
 * @param x f32, any shape
 * @param factor a number that does not change from step to step (it becomes part of the recorded dispatch)
 *
 * @example
 * ```ts
 * import { openDevice, scale, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(await scale(tensor(device, new Float32Array([1, 2])), 3).read()); // Float32Array(2) [ 3, 6 ]
 * ```
 */
export function scale(x: Tensor, factor: number): Tensor {
  checkDType("scale", x, "f32");
  const out = empty(x.device, x.shape);
  const { type } = x.device.adapter;
  const groups = Math.ceil(x.size / (type === "gpu" ? 4 : 1));
  const params = uniform(groups, floatBits(factor));
  x.device.dispatch(scaleKernels[type], [x, out, params], gridOf(Math.ceil(groups / 64)));
  return track("scale", out, [x], (g) => [scale(g, factor)]);
}
