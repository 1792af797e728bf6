/**
 * Another shape over the same elements. No data moves, so there is no shader.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { showShape, sizeOf } from "../../core/shape.ts";
import { type Tensor, viewOf } from "../../core/tensor.ts";

/**
 * `x` seen with another shape of the same number of elements.
 *
 * @param x any type and shape
 * @param shape the new shape; one length may be −1, and follows from the others
 * @throws {RangeError} if the numbers of elements differ
 *
 * @example
 * ```ts
 * import { openDevice, reshape, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(reshape(tensor(device, new Float32Array(6)), [2, -1]).shape); // [ 2, 3 ]
 * ```
 */
export function reshape(x: Tensor, shape: readonly number[]): Tensor {
  const known = sizeOf(shape.filter((length) => length !== -1));
  const full = shape.map((length) => length === -1 ? x.size / known : length);
  const open = shape.filter((length) => length === -1).length;
  if (open > 1 || sizeOf(full) !== x.size || !full.every(Number.isInteger)) {
    throw new RangeError(
      `Cannot reshape ${showShape(x.shape)} to ${showShape(shape)}: it has ${x.size} elements`,
    );
  }
  return track("reshape", viewOf(x, full), [x], (g) => [viewOf(g, x.shape)]);
}
