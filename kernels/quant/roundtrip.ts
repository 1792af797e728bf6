/**
 * What weights are after rounding to whole numbers with a zero point, in groups, and decoding: to try things out on the device.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./roundtrip.wgsl" with { type: "text" };

const roundtripKernel = kernel("roundtrip", code);

/**
 * Rounds each group of weights to `2^bits` levels and back. A weight that lies halfway may go to the other side than
 * `quantizeInteger` takes it to, as a device's division need not round to nearest.
 *
 * @param weight f32 [rows, columns]
 * @param bits 2 to 8
 * @param groupSize weights along a row that share a scale
 * @returns f32 [rows, columns]
 */
export function roundtrip(weight: Tensor, bits: number, groupSize: number): Tensor {
  checkRank("round weights", weight, 2, "weight");
  checkDType("round weights", weight, "f32", "weight");
  const { device } = weight;
  const [rows, columns] = weight.shape;
  const perRow = Math.ceil(columns / groupSize);
  const out = empty(device, weight.shape);
  const most = floatBits(2 ** bits - 1);
  device.dispatch(
    roundtripKernel,
    [weight, out, uniform(rows * perRow, perRow, columns, groupSize, most)],
    gridOf(Math.ceil(rows * perRow / 64)),
  );
  return out;
}
