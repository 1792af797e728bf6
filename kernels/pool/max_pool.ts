/**
 * Max pooling.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./max_pool.wgsl" with { type: "text" };
import backwardCode from "./max_pool_backward.wgsl" with { type: "text" };

const forward = kernel("max_pool", code);
const backward = kernel("max_pool_backward", backwardCode);

/**
 * The largest number of each channel in squares of `size` by `size` pixels, side by side. Pixels at the right and the bottom that fill
 * no square are left out, as PyTorch does it. Of equal numbers the first one counts: the gradient goes to it alone.
 *
 * @param x f32 [batch, height, width, channels]
 * @param size pixels on a side of a square
 * @returns f32 [batch, ⌊height / size⌋, ⌊width / size⌋, channels]
 * @throws {RangeError} if `size` is not a whole number from 1 to height and width
 *
 * @example
 * ```ts
 * import { maxPool, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 4, 3, 2]), [1, 2, 2, 1]);
 * console.log(await maxPool(x, 2).read()); // Float32Array(1) [ 4 ]
 * ```
 */
export function maxPool(x: Tensor, size: number): Tensor {
  checkDType("pool", x, "f32");
  checkRank("pool", x, 4);
  const [batch, height, width, channels] = x.shape;
  if (!Number.isInteger(size) || size < 1 || size > height || size > width) {
    throw new RangeError(
      `Cannot pool ${
        showShape(x.shape)
      } in squares of ${size} pixels: wanted a whole number from 1 to ${Math.min(height, width)}`,
    );
  }
  const { device } = x;
  const out = empty(device, [batch, Math.floor(height / size), Math.floor(width / size), channels]);
  const index = empty(device, out.shape, "u32");
  const [, rows, columns] = out.shape;
  const params = uniform(height, width, channels, rows, columns, size, out.size, x.size);
  device.dispatch(forward, [x, out, index, params], gridOf(Math.ceil(out.size / 64)));
  return track("max_pool", out, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(backward, [g, index, dX, params], gridOf(Math.ceil(x.size / 64)));
    return [dX];
  });
}
