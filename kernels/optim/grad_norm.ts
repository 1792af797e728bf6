/**
 * The norm of a flat gradient.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { sumAllGpu } from "../reduce/sum_gpu.ts";
import { ROWS_WGSL } from "../rows.ts";
import partsCode from "./grad_norm.wgsl" with { type: "text" };
import finishCode from "./grad_norm_finish.wgsl" with { type: "text" };

const partsKernel = kernel("grad_norm", ROWS_WGSL + partsCode);
const finishKernel = kernel("grad_norm_finish", ROWS_WGSL + finishCode);

/** Elements of one piece: the number of pieces follows from the size alone, and with it the order of summation. */
const PIECE = 4096;

/**
 * The Euclidean norm of all elements.
 *
 * @param grad f32, any shape
 * @returns f32 [1]
 */
export function gradNorm(grad: Tensor): Tensor {
  const { device, size } = grad;
  if (device.adapter.type === "gpu") return sumAllGpu(grad, "norm");
  const parts = Math.min(1024, Math.ceil(size / PIECE));
  const sums = empty(device, [parts]);
  const norm = empty(device, [1]);
  const split = { LANES: 8, ROWS: 1 };
  device.dispatch(partsKernel, [grad, sums, uniform(size, parts)], [parts], split);
  device.dispatch(finishKernel, [sums, norm, uniform(parts)], [1], split);
  return norm;
}
