/**
 * Weights as they are after quantizing and decoding, with one scale or one for each output channel.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { levelsOf } from "../../kernels/quant/affine.ts";
import { fakeQuantize } from "../../kernels/quant/fake_quant.ts";
import { groupRanges, rangeGrid, totalRange } from "../../kernels/quant/group_grid.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";

/** Symmetric whole numbers, −(2^(bits−1) − 1) to 2^(bits−1) − 1, times a scale. */
export interface WeightRounding {
  /** Bits of a number, 2 to 8. */
  readonly bits: number;
  /** Who shares a scale: all weights of a layer, or those of one output channel. */
  readonly per: "tensor" | "channel";
}

/** Numbers that are weights, and the steps between them. */
export interface RoundedWeights {
  /** f32 as the weight: whole numbers times scales. */
  readonly weight: Tensor;
  /** f32 [1], or [channels, 1]: the steps; 0 where there is nothing but zeros. */
  readonly scales: Tensor;
}

/**
 * Rounds weights to whole numbers of steps. The largest magnitude that shares a scale is the largest whole number, so that nothing
 * is clipped; the gradient of the result is that of the weight (the straight-through estimator).
 *
 * @param weight f32 [outChannels, ...]
 * @param rounding bits, and who shares a scale
 * @throws {RangeError} if `bits` is not 2 to 8
 *
 * @example
 * ```ts
 * import { openDevice, roundWeights, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const weight = tensor(device, new Float32Array([7, -2.4, 70, 24]), [2, 2]);
 * console.log(await roundWeights(weight, { bits: 4, per: "channel" }).weight.read()); // [ 7, -2, 70, 20 ]
 * console.log(await roundWeights(weight, { bits: 4, per: "tensor" }).weight.read()); // [ 10, 0, 70, 20 ]
 * ```
 */
export function roundWeights(weight: Tensor, { bits, per }: WeightRounding): RoundedWeights {
  const scheme = { bits, kind: "symmetric" } as const;
  const rows = reshape(weight, [weight.shape[0], -1]);
  const { scales, zeros } = per === "tensor"
    ? rangeGrid(totalRange(rows), scheme, [1])
    : rangeGrid(groupRanges(rows, rows.shape[1]), scheme);
  const rounded = fakeQuantize(rows, scales, zeros, levelsOf(scheme));
  return { weight: reshape(rounded, weight.shape), scales };
}
