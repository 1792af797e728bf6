/**
 * Cross-entropy of logits against class numbers.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { KernelMemo } from "../quads.ts";
import { rowCode, rowGrid, ROWS_WGSL, type RowSplit, splitRows } from "../rows.ts";
import code from "./cross_entropy.wgsl" with { type: "text" };
import backwardCode from "./cross_entropy_backward.wgsl" with { type: "text" };
import meanCode from "./cross_entropy_mean.wgsl" with { type: "text" };
import logSumCode from "./log_sum.wgsl" with { type: "text" };

const forward = new KernelMemo((group: 4 | 1, unroll: number) =>
  kernel("cross_entropy", rowCode(group, unroll, logSumCode + code))
);
const mean = kernel("cross_entropy_mean", ROWS_WGSL + meanCode);
const backward = new KernelMemo((group: 4 | 1, unroll: number) =>
  kernel("cross_entropy_backward", rowCode(group, unroll, backwardCode))
);

/** How a workgroup walks a row of classes. */
export interface ClassWalk {
  /** Classes that are loaded together. */
  readonly group: 4 | 1;
  /** Loads of a lane that are under way together. */
  readonly unroll: number;
  readonly split: RowSplit;
}

/**
 * The walk over rows of so many classes, with at most `most` loads of a lane under way on a GPU, where long rows are bound by how
 * many bytes are. At 32,000 classes an H100 reads 0.92 of a copy's rate with 256 lanes and 8 loads, 0.87 with 512 and 4.
 */
export function walkClasses(device: Device, classes: number, most: 4 | 8): ClassWalk {
  const group = classes % 4 === 0 ? 4 : 1;
  if (device.adapter.type === "software") {
    return { group, unroll: 1, split: splitRows(device, classes) };
  }
  let lanes = 32;
  while (lanes < 256 && lanes * most * group < classes) lanes *= 2;
  return { group, unroll: most, split: { LANES: lanes, ROWS: Math.max(1, 128 / lanes) } };
}

/** Rows beyond these are walked by the workgroups of those before: WebGPU's limit on a grid. */
const MOST_ROWS = 65_535;

/** Threads of a workgroup of the backward kernel, which has a part of a row. */
const BACKWARD_THREADS = { gpu: 256, software: 64 } as const;

/** The target of a row that does not count, as in PyTorch. */
export const IGNORE: number = -100;

/** How `crossEntropy` averages. */
export interface CrossEntropyOptions {
  /**
   * f32 [1]: what the sum of losses is divided by. Without it, the number of targets that are not −100. A step in several parts
   * passes its whole number of label tokens, so that every token weighs the same.
   */
  readonly count?: Tensor;
}

/** The loss of every row, f32 [rows]: `−log softmax(logits)[target]`, and 0 where the target is −100. Not tracked. */
export function crossEntropyRows(
  logits: Tensor,
  targets: Tensor,
): { losses: Tensor; logSums: Tensor } {
  checkDType("take the cross-entropy", logits, "f32", "logits");
  checkDType("take the cross-entropy", targets, "i32", "targets");
  const { device } = logits;
  const [rows, classes] = rowsAndColumns(logits);
  if (targets.size !== rows) {
    throw new RangeError(
      `Cannot take the cross-entropy of logits ${showShape(logits.shape)} and targets ${
        showShape(targets.shape)
      }: wanted one target for each of ${rows} rows`,
    );
  }
  const losses = empty(device, [rows]);
  const logSums = empty(device, [rows]);
  const { group, unroll, split } = walkClasses(device, classes, 8);
  const bindings = [logits, targets, losses, logSums, uniform(rows, classes / group)];
  device.dispatch(forward.get(group, unroll), bindings, rowGrid(rows, split), { ...split });
  return { losses, logSums };
}

/** The mean of losses, f32 [], and 1 over what they were divided by, f32 [1]. Not tracked. */
export function meanLoss(
  losses: Tensor,
  targets: Tensor,
  count?: Tensor,
): { loss: Tensor; inverse: Tensor } {
  const { device, size } = losses;
  const out = empty(device, [1]);
  const inverse = empty(device, [1]);
  device.dispatch(
    mean,
    [losses, targets, count ?? losses, out, inverse, uniform(size, count ? 1 : 0)],
    [1],
    { LANES: device.adapter.type === "software" ? 8 : 256, ROWS: 1 },
  );
  return { loss: viewOf(out, []), inverse };
}

/**
 * The mean of `−log softmax(logits)[target]` over the rows whose target is not −100.
 *
 * @param logits f32 [..., classes]
 * @param targets i32, one for each row of logits; −100 is ignored
 * @param options what to divide by
 * @returns f32 [], in nats; 0 if every target is ignored
 * @throws {RangeError} if there is not one target for each row
 *
 * @example
 * ```ts
 * import { crossEntropy, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const logits = tensor(device, new Float32Array([0, 0, 5, 0]), [2, 2]);
 * const targets = tensor(device, new Int32Array([1, -100]));
 * console.log(await crossEntropy(logits, targets).item()); // 0.6931…, log 2
 * ```
 */
export function crossEntropy(
  logits: Tensor,
  targets: Tensor,
  options: CrossEntropyOptions = {},
): Tensor {
  const { device } = logits;
  const [rows, classes] = rowsAndColumns(logits);
  const { losses, logSums } = crossEntropyRows(logits, targets);
  const { loss, inverse } = meanLoss(losses, targets, options.count);
  return track("cross_entropy", loss, [logits], (g) => {
    const dLogits = empty(device, logits.shape);
    const { group, unroll } = walkClasses(device, classes, 4);
    const THREADS = BACKWARD_THREADS[device.adapter.type];
    const groups = classes / group;
    device.dispatch(
      backward.get(group, unroll),
      [logits, targets, logSums, inverse, g, dLogits, uniform(rows, groups)],
      [Math.ceil(groups / (THREADS * unroll)), Math.min(rows, MOST_ROWS)],
      { THREADS },
    );
    return [dLogits];
  });
}
