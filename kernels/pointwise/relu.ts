/**
 * The rectifier.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./relu.wgsl" with { type: "text" };
import backwardCode from "./relu_backward.wgsl" with { type: "text" };

const forward = kernelPair("relu", ["x"], code);
const backward = kernelPair("relu_backward", ["x", "d_out"], backwardCode);

/**
 * `max(x, 0)`, element by element. Its gradient is 0 at 0.
 *
 * @param x f32, any shape
 *
 * @example
 * ```ts
 * import { openDevice, relu, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(await relu(tensor(device, new Float32Array([-1, 0, 2]))).read()); // [ 0, 0, 2 ]
 * ```
 */
export function relu(x: Tensor): Tensor {
  checkDType("rectify", x, "f32");
  const { device } = x;
  const quads = Math.ceil(x.size / 4);
  const grid = gridOf(Math.ceil(quads / 64));
  const out = empty(device, x.shape);
  device.dispatch(pick(device, forward), [input(x), out, uniform(quads)], grid);
  return track("relu", out, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(pick(device, backward), [input(x), input(g), dX, uniform(quads)], grid);
    return [dX];
  });
}
