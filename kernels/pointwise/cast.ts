/**
 * Conversion between 32- and 16-bit floats.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { convert } from "../../core/convert.ts";
import { checkDType } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";

/**
 * `x` as f32 or f16, rounded to nearest, ties to even. The gradient is cast back.
 *
 * @param x f32 or f16, any shape
 * @param dtype what to convert to
 *
 * @example
 * ```ts
 * import { cast, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const half = cast(tensor(device, new Float32Array([0.1, 65504])), "f16");
 * console.log(await half.read()); // Float16Array(2) [ 0.0999755859375, 65504 ]
 * ```
 */
export function cast(x: Tensor, dtype: "f32" | "f16"): Tensor {
  checkDType("cast", x, ["f32", "f16"]);
  if (x.dtype === dtype) return x;
  return track("cast", convert(x, dtype), [x], (g) => [cast(g, x.dtype as "f32" | "f16")]);
}
