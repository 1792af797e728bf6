/**
 * Between 32- and 16-bit floats, without gradients: `cast` of the kernels is the op.
 *
 * @module
 */
import { uniform } from "./binding.ts";
import code from "./convert.wgsl" with { type: "text" };
import { gridOf } from "./grid.ts";
import { kernel } from "./kernel.ts";
import { empty, type Tensor } from "./tensor.ts";

const convertKernel = kernel("cast", code);

/**
 * `x` as f32 or f16, rounded to nearest, ties to even. Not tracked.
 *
 * @param x f32 or f16, and not `dtype` already
 * @param dtype what to convert to
 * @param saturate give what is beyond ±65504 as that instead of infinity
 */
export function convert(x: Tensor, dtype: "f32" | "f16", saturate = false): Tensor {
  const out = empty(x.device, x.shape, dtype);
  const pairs = Math.ceil(x.size / 2);
  x.device.dispatch(convertKernel, [x, out, uniform(x.size)], gridOf(Math.ceil(pairs / 64)), {
    TO_F16: dtype === "f16" ? 1 : 0,
    SATURATE: saturate ? 1 : 0,
  });
  return out;
}
