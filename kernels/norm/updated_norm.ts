/**
 * The row norms of a weight and its low-rank update, without making their sum.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkIsShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { matmul } from "../linear/matmul.ts";
import { mul } from "../pointwise/arithmetic.ts";
import { sum } from "../reduce/sum.ts";
import code from "./updated_norm.wgsl" with { type: "text" };

const updatedNormKernel = kernel("updated_norm", code);

/** A weight W [rows, columns] as `updatedNorm` needs it, and its update. */
export interface UpdatedWeight {
  /** f32 [rows]: the squared norms of W's rows, as `rowSquares` gives them. */
  readonly squares: Tensor;
  /** f32 [rank, rows]: A · Wᵀ. Quantized weights give it without being decoded. */
  readonly product: Tensor;
  /** f32 [rank, columns]. */
  readonly a: Tensor;
  /** f32 [rows, rank]. */
  readonly b: Tensor;
  /** The factor of B · A. */
  readonly scaling: number;
}

/** The squared norm of each row: f32 [rows, columns] to [rows]. Not tracked. */
export function rowSquares(w: Tensor): Tensor {
  return noGrad(() => w.device.scope(() => sum(mul(w, w), { axis: 1 })));
}

/**
 * The norm of each row of `W + scaling · B · A`, f32 [rows]. The sum is never made: beyond A · Wᵀ the work is that of a few rows
 * of the rank's length. Not tracked: DoRA holds it constant in the backward pass (Liu et al., arXiv 2402.09353, section 4.3).
 * Where the update nearly cancels a row of W, the digits that cancel are lost.
 */
export function updatedNorm({ squares, product, a, b, scaling }: UpdatedWeight): Tensor {
  const [rows, rank] = b.shape;
  checkIsShape("take the norms of an updated weight", squares, [rows], "squares");
  checkIsShape("take the norms of an updated weight", product, [rank, rows], "product");
  const { device } = b;
  const q = noGrad(() => matmul(b, matmul(a, a, { transposeB: true })));
  const out = empty(device, [rows]);
  device.dispatch(
    updatedNormKernel,
    [squares, product, q, b, out, uniform(rows, rank, floatBits(scaling))],
    gridOf(Math.ceil(rows / 64)),
  );
  return out;
}
