/**
 * The largest element.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./max.wgsl" with { type: "text" };
import backwardCode from "./max_backward.wgsl" with { type: "text" };
import { checkAxis, type ReduceOptions, splitAt } from "./sum.ts";

const forward = kernel("max", code);
const backward = kernel("max_backward", backwardCode);

/**
 * The largest element over one axis. Of equal elements the first counts: the gradient goes to it alone.
 *
 * @param x f32, any shape with at least one axis
 * @param options which axis; the last one by default
 * @returns f32, without the axis (or with it, of length 1)
 *
 * @example
 * ```ts
 * import { max, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 5, 4, 3]), [2, 2]);
 * console.log(await max(x).read()); // Float32Array(2) [ 5, 4 ]
 * ```
 */
export function max(x: Tensor, options: ReduceOptions = {}): Tensor {
  checkDType("take the maximum", x, "f32");
  const { device } = x;
  const axis = checkAxis("take the maximum", x, options.axis ?? -1);
  const [outer, length, inner] = splitAt(x.shape, axis);
  if (length === 0) throw new RangeError("Cannot take the maximum of no elements");
  const shape = options.keepAxis
    ? x.shape.map((own, i) => i === axis ? 1 : own)
    : x.shape.toSpliced(axis, 1);
  const out = empty(device, shape);
  const index = empty(device, shape, "i32");
  const params = uniform(outer, length, inner);
  device.dispatch(forward, [x, out, index, params], gridOf(Math.ceil(out.size / 64)));
  return track("max", out, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(backward, [g, index, dX, params], gridOf(Math.ceil(x.size / 64)));
    return [dX];
  });
}
