/**
 * Normalised activations in 8 bits, in one dispatch.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { rmsNorm } from "../norm/rms_norm.ts";
import { KernelMemo } from "../quads.ts";
import { holdRows, rowGrid } from "../rows.ts";
import code from "./quantize_normalized.wgsl" with { type: "text" };
import {
  type ActivationScheme,
  checkActivationScheme,
  type QuantizedRows,
  quantizeRows,
  roundingParams,
} from "./quantize_rows.ts";
import { roundRowsCode } from "./round_rows.ts";

const kernels = new KernelMemo((count: number) =>
  kernel("quantize_normalized", roundRowsCode(count, true) + code)
);

/**
 * `quantizeRows(rmsNorm(x, gain, epsilon), scheme)`, to the last bit. On a GPU, for rows of whole words that it can hold in
 * registers, this is one dispatch. Not tracked.
 *
 * @param x f32 [..., columns]
 * @param gain f32 [columns]
 * @param epsilon added to the mean square
 * @param scheme a scale for each row, or a fixed one
 * @throws {RangeError} if the scheme makes no sense, or `gain` does not have as many elements as x has columns
 */
export function quantizeNormalized(
  x: Tensor,
  gain: Tensor,
  epsilon: number,
  scheme: ActivationScheme,
): QuantizedRows {
  checkDType("normalize", x, "f32");
  const { zero } = checkActivationScheme(scheme);
  const { device, shape } = x;
  const [rows, columns] = rowsAndColumns(x);
  checkIsShape("normalize", gain, [columns], "gain");
  const held = columns % 4 === 0 ? holdRows(device, columns) : null;
  if (!held) return quantizeRows(rmsNorm(x, gain, epsilon), scheme);
  const words = columns / 4;
  const codes = empty(device, [rows, words], "u32");
  const scales = empty(device, [rows]);
  const floats = [columns, epsilon].map(floatBits);
  const params = uniform(rows, words, ...floats, ...roundingParams(scheme));
  device.dispatch(
    kernels.get(held.count),
    [x, gain, codes, scales, params],
    rowGrid(rows, held.split),
    { ...held.split },
  );
  return { shape, codes, scales, zero };
}
