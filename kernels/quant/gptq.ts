/**
 * GPTQ: a weight matrix in whole numbers, each column made up for by those after it. Frantar et al. (arXiv 2210.17323).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { checkIsShape, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { matmul } from "../linear/matmul.ts";
import { slice } from "../pointwise/slice.ts";
import { transpose } from "../pointwise/transpose.ts";
import { type AffineScheme, levelsOf } from "./affine.ts";
import blockCode from "./gptq_block.wgsl" with { type: "text" };
import rangeCode from "./group_range.wgsl" with { type: "text" };

const blockKernel = kernel("gptq_block", blockCode);
const rangeKernel = kernel("group_range", rangeCode);

/** Columns that a dispatch quantizes one after another: MOST in the kernel. */
const BLOCK = 32;

/** A matrix in whole numbers, on the device, transposed. */
export interface TransposedCodes {
  /** u32 [columns, rows]: whole numbers less the least of the scheme. */
  readonly codes: Tensor;
  /** f32 [groups, rows, 2]: scale and zero. */
  readonly scales: Tensor;
}

/**
 * Quantizes a weight matrix with the inverse of its inputs' Hessian.
 *
 * @param weight f32 [rows, columns]
 * @param factor f32 [columns, columns]: upper triangular U with `H⁻¹ = UᵀU`, from `inverseFactor`
 * @param scheme the whole numbers
 * @param groupSize weights along a row that share a scale
 * @returns codes and scales; tensors of their own
 * @throws {RangeError} if the factor does not fit the weight
 */
export function gptq(
  weight: Tensor,
  factor: Tensor,
  scheme: AffineScheme,
  groupSize: number,
): TransposedCodes {
  checkRank("quantize by GPTQ", weight, 2, "weight");
  const [rows, columns] = weight.shape;
  checkIsShape("quantize by GPTQ", factor, [columns, columns], "factor");
  const { device } = weight;
  const { least, most } = levelsOf(scheme);
  const codes = empty(device, [columns, rows], "u32");
  const groups = Math.ceil(columns / groupSize);
  const scales = empty(device, [groups, rows, 2]);
  const grid = [Math.ceil(rows / 64), 1, 1] as const;
  const bounds = [floatBits(least), floatBits(most)];
  noGrad(() => {
    let left = transpose(weight);
    for (let first = 0; first < columns;) {
      const count = Math.min(BLOCK, groupSize - first % groupSize, columns - first);
      if (first % groupSize === 0) {
        const own = Math.min(groupSize, columns - first);
        device.dispatch(
          rangeKernel,
          [left, scales, uniform(rows, own, first / groupSize * rows, ...bounds)],
          grid,
          { SYMMETRIC: scheme.kind === "asymmetric" ? 0 : 1 },
        );
      }
      const errors = empty(device, [count, rows]);
      const params = uniform(rows, count, first, columns, groupSize, ...bounds);
      device.dispatch(blockKernel, [left, factor, scales, codes, errors, params], grid);
      left = corrected(left, factor, errors, first);
      first += count;
    }
  });
  return { codes, scales };
}

/** The columns behind a block, with its errors made up for. */
function corrected(left: Tensor, factor: Tensor, errors: Tensor, first: number): Tensor {
  const [columns] = factor.shape;
  const [count] = errors.shape;
  const rest = columns - first - count;
  if (rest === 0) return left;
  const behind = slice(slice(factor, { axis: 0, start: first, length: count }), {
    start: first + count,
    length: rest,
  });
  const add = slice(left, { axis: 0, start: count, length: rest });
  return matmul(behind, errors, { transposeA: true, alpha: -1, add });
}
