/**
 * The activation of GPT-2.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./gelu.wgsl" with { type: "text" };
import backwardCode from "./gelu_backward.wgsl" with { type: "text" };

const forward = kernelPair("gelu", ["x"], code);
const backward = kernelPair("gelu_backward", ["x", "d_out"], backwardCode);

/**
 * `½ x · (1 + tanh(√(2/π) · (x + 0.044715 x³)))`: GELU by its tanh approximation, which transformers calls "gelu_new" and
 * PyTorch `approximate="tanh"`. Hendrycks and Gimpel, "Gaussian error linear units" (arXiv 1606.08415).
 *
 * @param x f32, any shape
 *
 * @example
 * ```ts
 * import { gelu, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(await gelu(tensor(device, new Float32Array([-1, 0, 1]))).read()); // [ -0.1588…, 0, 0.8411… ]
 * ```
 */
export function gelu(x: Tensor): Tensor {
  checkDType("take the GELU", x, "f32");
  const { device } = x;
  const quads = Math.ceil(x.size / 4);
  const grid = gridOf(Math.ceil(quads / 64));
  const out = empty(device, x.shape);
  device.dispatch(pick(device, forward), [input(x), out, uniform(quads)], grid);
  return track("gelu", out, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(pick(device, backward), [input(kept(x)), input(g), dX, uniform(quads)], grid);
    return [dX];
  }, [x]);
}
