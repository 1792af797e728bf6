/**
 * Sums of what workgroups leave in pieces: of two gradients at once.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { groupCode, KernelMemo, unrolled } from "../quads.ts";
import code from "./piece_sums.wgsl" with { type: "text" };

/** Loads of an invocation that are under way together. */
const COUNT = 4;

/** Groups of columns of a workgroup, and invocations for each. */
const LANES = 16;
const SLOTS = 16;

const kernels = new KernelMemo((group: 4 | 1) =>
  kernel("piece_sums", `const COUNT = ${COUNT}u;\n${groupCode(group, unrolled(code, COUNT))}`)
);

/**
 * The sums over the first axis of two tensors of one shape, in one dispatch: one after the other would wait for each other.
 *
 * @param first f32 [pieces, columns]
 * @param second the same
 * @returns f32 [columns] of each
 */
export function pieceSums(first: Tensor, second: Tensor): [first: Tensor, second: Tensor] {
  const { device, shape: [length, columns] } = first;
  const group = columns % 4 === 0 ? 4 : 1;
  const groups = columns / group;
  const sums: [Tensor, Tensor] = [empty(device, [columns]), empty(device, [columns])];
  device.dispatch(
    kernels.get(group),
    [first, second, ...sums, uniform(length, groups)],
    [Math.ceil(groups / LANES), 1, 2],
    { LANES, SLOTS },
  );
  return sums;
}
