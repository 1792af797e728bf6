/**
 * The gate of SwiGLU.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkSameShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./silu_gate.wgsl" with { type: "text" };
import backwardCode from "./silu_gate_backward.wgsl" with { type: "text" };

const forward = kernel("silu_gate", code);
const backward = kernel("silu_gate_backward", backwardCode);

/**
 * `silu(gate) · up`, where `silu(x) = x · σ(x)`: the middle of a SwiGLU feed-forward layer.
 * Shazeer, "GLU variants improve transformer" (arXiv 2002.05202).
 *
 * @param gate f32, any shape
 * @param up f32, the same shape
 * @throws {RangeError} if the shapes differ
 *
 * @example
 * ```ts
 * import { openDevice, siluGate, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([-1, 0, 1]));
 * console.log(await siluGate(x, x).read());
 * ```
 */
export function siluGate(gate: Tensor, up: Tensor): Tensor {
  checkDType("gate", gate, "f32", "gate");
  checkDType("gate", up, "f32", "up");
  checkSameShape("gate", gate, up);
  const { device, size } = gate;
  const grid = gridOf(Math.ceil(size / 64));
  const out = empty(device, gate.shape);
  device.dispatch(forward, [gate, up, out, uniform(size)], grid);
  return track("silu_gate", out, [gate, up], (g) => {
    const dGate = empty(device, gate.shape);
    const dUp = empty(device, gate.shape);
    device.dispatch(backward, [gate, up, g, dGate, dUp, uniform(size)], grid);
    return [dGate, dUp];
  });
}
