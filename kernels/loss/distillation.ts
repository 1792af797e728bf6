/**
 * Learning another model's predictions. Hinton et al., "Distilling the knowledge in a neural network" (arXiv 1503.02531).
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkSameShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { groupCode, KernelMemo } from "../quads.ts";
import { rowCode, rowGrid } from "../rows.ts";
import {
  type CrossEntropyOptions,
  crossEntropyRows,
  meanLoss,
  walkClasses,
} from "./cross_entropy.ts";
import code from "./distillation.wgsl" with { type: "text" };
import backwardCode from "./distillation_backward.wgsl" with { type: "text" };

const forward = new KernelMemo((group: 4 | 1) => kernel("distillation", rowCode(group, 1, code)));
const backward = new KernelMemo((group: 4 | 1) =>
  kernel("distillation_backward", groupCode(group, backwardCode))
);

/**
 * The mean Kullback-Leibler divergence of a student's predictions from a teacher's, over the rows whose target is not −100: 0 where
 * both are the same.
 *
 * @param student f32 [..., classes]: logits that learn
 * @param teacher f32, as student: logits that are learnt; no gradient flows into them
 * @param targets i32, one for each row; only whether it is −100 counts
 * @param options what to divide by
 * @returns f32 [], in nats
 * @throws {RangeError} if shapes differ
 *
 * @example
 * ```ts
 * import { distillation, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const student = tensor(device, new Float32Array([0, 0]), [1, 2]);
 * const teacher = tensor(device, new Float32Array([0, Math.log(3)]), [1, 2]);
 * const targets = tensor(device, new Int32Array([1]));
 * console.log(await distillation(student, teacher, targets).item()); // 0.1308…
 * ```
 */
export function distillation(
  student: Tensor,
  teacher: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): Tensor {
  checkDType("distil", teacher, "f32", "the teacher's logits");
  checkSameShape("distil a teacher's logits into a student's", teacher, student);
  const { device } = student;
  const [rows, classes] = rowsAndColumns(student);
  const [{ logSums: own }, { logSums: theirs }] = [student, teacher].map((t) =>
    crossEntropyRows(t, targets)
  );
  const losses = empty(device, [rows]);
  const { group, split } = walkClasses(device, classes, 4);
  const groups = classes / group;
  const both = [student, teacher, targets, own, theirs];
  const params = uniform(rows, groups);
  device.dispatch(forward.get(group), [...both, losses, params], rowGrid(rows, split), {
    ...split,
  });
  const { loss, inverse } = meanLoss(losses, targets, options.count);
  return track("distillation", loss, [student], (g) => {
    const dStudent = empty(device, student.shape);
    const grid = gridOf(Math.ceil(rows * groups / 64));
    device.dispatch(backward.get(group), [...both, inverse, g, dStudent, params], grid);
    return [dStudent];
  });
}
