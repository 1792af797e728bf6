/**
 * Dropout with a counter-based mask.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import randomCode from "../../core/random.wgsl" with { type: "text" };
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./dropout.wgsl" with { type: "text" };

const dropoutKernel = kernel("dropout", randomCode + code);

function apply(x: Tensor, p: number, state: Tensor, site: number): Tensor {
  const out = empty(x.device, x.shape);
  const quads = Math.ceil(x.size / 4);
  const params = uniform(quads, floatBits(p), site);
  x.device.dispatch(dropoutKernel, [x, out, state, params], gridOf(Math.ceil(quads / 64)));
  return out;
}

/**
 * Sets each element to zero with probability `p`, and divides the others by `1 − p`.
 * Srivastava et al., "Dropout" (JMLR 2014). The mask is a function of the state and the site, the same on every machine.
 *
 * @param x f32, any shape
 * @param p the probability of zero, in [0, 1)
 * @param state u32 [2]: seed and step. Write a new step before each step, and every mask is new
 * @param site a number that tells this place in the model from others
 * @throws {RangeError} if `p` is not in [0, 1)
 *
 * @example
 * ```ts
 * import { dropout, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const state = tensor(device, new Uint32Array([42, 0]));
 * const x = tensor(device, new Float32Array(8).fill(1));
 * console.log(await dropout(x, 0.5, state, 0).read()); // zeros and twos
 * ```
 */
export function dropout(x: Tensor, p: number, state: Tensor, site: number): Tensor {
  if (!(p >= 0 && p < 1)) {
    throw new RangeError(`Cannot drop with probability ${p}: it must be at least 0 and below 1`);
  }
  checkDType("drop", x, "f32");
  checkDType("drop", state, "u32", "state");
  if (p === 0) return x;
  return track("dropout", apply(x, p, state, site), [x], (g) => [apply(g, p, state, site)]);
}
