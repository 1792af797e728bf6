/**
 * Steps between whole numbers that are learnt by their logarithm: they stay above 0, and a learning rate is a share of the step,
 * however small it is. Jain et al., "Trained quantization thresholds" (arXiv 1903.08066).
 *
 * @module
 */
import { noGrad, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkSameShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { mul } from "../pointwise/arithmetic.ts";
import code from "./log_step.wgsl" with { type: "text" };

const logStepKernel = kernel("log_step", code);

/**
 * `base · e^x`.
 *
 * @param base f32, the steps to begin with; no gradient flows into them
 * @param x f32, as base: the logarithms of how far they have grown, 0 to begin with
 * @returns f32, as base
 */
export function logStep(base: Tensor, x: Tensor): Tensor {
  for (const t of [base, x]) checkDType("learn steps", t, "f32");
  checkSameShape("learn steps", base, x);
  const { device, size } = x;
  const y = empty(device, x.shape);
  device.dispatch(logStepKernel, [base, x, y, uniform(size)], gridOf(Math.ceil(size / 64)));
  return track("log_step", y, [x], (g) => [noGrad(() => mul(g, y))]);
}
