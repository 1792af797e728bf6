/**
 * The gate of SwiGLU.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType, checkSameShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./silu_gate.wgsl" with { type: "text" };
import backwardCode from "./silu_gate_backward.wgsl" with { type: "text" };

const forward = kernelPair("silu_gate", ["gate", "up"], code);
const backward = kernelPair("silu_gate_backward", ["gate", "up", "d_out"], backwardCode);

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
  const { device } = gate;
  const quads = Math.ceil(gate.size / 4);
  const grid = gridOf(Math.ceil(quads / 64));
  const out = empty(device, gate.shape);
  const inputs = [gate, up].map((t) => input(t));
  device.dispatch(pick(device, forward), [...inputs, out, uniform(quads)], grid);
  return track("silu_gate", out, [gate, up], (g) => {
    const dGate = empty(device, gate.shape);
    const dUp = empty(device, gate.shape);
    const operands = [kept(gate), kept(up), g].map((t) => input(t));
    const bindings = [...operands, dGate, dUp, uniform(quads)];
    device.dispatch(pick(device, backward), bindings, grid);
    return [dGate, dUp];
  }, [gate, up]);
}
