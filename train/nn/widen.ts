/**
 * Tensors of models that lie in 16 bits, where 32 are wanted.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { cast } from "../../kernels/pointwise/cast.ts";

/** `t` in 32 bits: itself, or a copy that is kept instead of it. */
export function widened(t: Tensor): Tensor {
  if (t.dtype !== "f16") return t;
  const wide = t.device.keep(noGrad(() => cast(t, "f32")));
  t.dispose();
  return wide;
}

/** Reads a tensor of floats as f32, whatever it lies in. */
export async function readFloats(t: Tensor): Promise<Float32Array<ArrayBuffer>> {
  const numbers = await t.read();
  return (numbers instanceof Float32Array ? numbers : new Float32Array(numbers)) as Float32Array<
    ArrayBuffer
  >;
}
