/**
 * Cross-entropy of a linear layer's output, without ever holding all logits.
 *
 * @module
 */
import { isTracking, needsGrad, noGrad, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { matmul } from "../linear/matmul.ts";
import { KernelMemo } from "../quads.ts";
import { rowCode, rowGrid } from "../rows.ts";
import { type CrossEntropyOptions, meanLoss, walkClasses } from "./cross_entropy.ts";
import code from "./linear_cross_entropy.wgsl" with { type: "text" };
import scaleCode from "./linear_cross_entropy_scale.wgsl" with { type: "text" };
import logSumCode from "./log_sum.wgsl" with { type: "text" };

const inPlace = new KernelMemo((group: 4 | 1, unroll: number) =>
  kernel("linear_cross_entropy", rowCode(group, unroll, logSumCode + code))
);
const scaleKernel = kernel("linear_cross_entropy_scale", scaleCode);

/** So many bytes of logits exist at a time: four parts of 2,048 tokens of a vocabulary of 49,152. */
const LOGIT_BYTES = 96 << 20;

/** Rows of a part are a multiple of this: a part of a buffer must begin at a multiple of 256 bytes. */
const ROWS_MULTIPLE = 64;

/** How `linearCrossEntropy` averages, and how much memory it may take. */
export interface LinearCrossEntropyOptions extends CrossEntropyOptions {
  /** The most bytes of logits at a time, 96 MiB by default; at least 64 rows of them are made. */
  readonly logitBytes?: number;
}

/** Rows of a part: as even as possible. */
function partRows(rows: number, classes: number, logitBytes: number): number {
  const fitting = Math.floor(logitBytes / (4 * classes * ROWS_MULTIPLE));
  const most = Math.max(1, fitting) * ROWS_MULTIPLE;
  const parts = Math.ceil(rows / most);
  return Math.ceil(rows / (parts * ROWS_MULTIPLE)) * ROWS_MULTIPLE;
}

/** Writes the losses of a part, and with `gradient` puts the gradient of their sum in the place of the logits. */
function lossInPlace(logits: Tensor, targets: Tensor, losses: Tensor, gradient: boolean): void {
  const { device } = logits;
  const [rows, classes] = logits.shape;
  const { group, unroll, split } = walkClasses(device, classes, 4);
  device.dispatch(
    inPlace.get(group, unroll),
    [logits, targets, losses, uniform(rows, classes / group, gradient ? 1 : 0)],
    rowGrid(rows, split),
    { ...split },
  );
}

/** `gradient · inverse · g`, and what there was before. */
function scaled(gradient: Tensor, inverse: Tensor, g: Tensor, before?: Tensor): Tensor {
  const { device, size } = gradient;
  const out = empty(device, gradient.shape);
  const groups = Math.ceil(size / 4);
  device.dispatch(
    scaleKernel,
    [gradient, before ?? gradient, inverse, g, out, uniform(groups, before ? 1 : 0)],
    gridOf(Math.ceil(groups / 64)),
  );
  return out;
}

/** Losses of all rows, and the gradients of their sum that are wanted. */
function sumOfLosses(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  wanted: { hidden: boolean; weight: boolean },
  logitBytes: number,
): { losses: Tensor; dHidden: Tensor | null; dWeight: Tensor | null } {
  const { device } = hidden;
  const [rows, width] = rowsAndColumns(hidden);
  const losses = empty(device, [rows]);
  const dHidden = wanted.hidden ? empty(device, hidden.shape) : null;
  let dWeight: Tensor | null = null;
  const size = partRows(rows, weight.shape[0], logitBytes);
  for (let start = 0; start < rows; start += size) {
    const length = Math.min(size, rows - start);
    const part = (t: Tensor, shape: readonly number[]) =>
      viewOf(t, [length, ...shape], t.dtype, 4 * start * (shape[0] ?? 1));
    const before: Tensor | null = dWeight;
    dWeight = device.scope(() => {
      const x = part(hidden, [width]);
      const logits = matmul(x, weight, { transposeB: true });
      lossInPlace(logits, part(targets, []), part(losses, []), wanted.hidden || wanted.weight);
      if (dHidden) device.copy(matmul(logits, weight), part(dHidden, [width]));
      if (!wanted.weight) return null;
      return matmul(logits, x, { transposeA: true, add: before ?? undefined });
    });
    before?.dispose();
  }
  return { losses, dHidden, dWeight };
}

/**
 * `crossEntropy(hidden · Wᵀ, targets)`, with the logits made a part of the rows at a time and forgotten: a vocabulary of 49,152
 * takes 400 MB of them for 2,048 tokens, and as much again for their gradient. Gradients are computed together with the loss,
 * while the logits are there, and only scaled in the backward pass.
 *
 * @param hidden f32 [..., width]
 * @param weight f32 [classes, width]; or f16, if it is not trained
 * @param targets i32, one for each row of `hidden`; −100 is ignored
 * @param options what to divide by, and how many logits may exist at a time
 * @returns f32 [], in nats; 0 if every target is ignored
 * @throws {RangeError} if the widths differ, or there is not one target for each row
 *
 * @example
 * ```ts
 * import { linearCrossEntropy, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const hidden = tensor(device, new Float32Array([1, 0]), [1, 2]);
 * const weight = tensor(device, new Float32Array([0, 0, 0, 0]), [2, 2]);
 * const targets = tensor(device, new Int32Array([1]));
 * console.log(await linearCrossEntropy(hidden, weight, targets).item()); // 0.6931…, log 2
 * ```
 */
export function linearCrossEntropy(
  hidden: Tensor,
  weight: Tensor,
  targets: Tensor,
  options: LinearCrossEntropyOptions = {},
): Tensor {
  const action = "take the cross-entropy";
  checkDType(action, hidden, "f32", "hidden");
  checkDType(action, weight, ["f32", "f16"], "weight");
  checkDType(action, targets, "i32", "targets");
  const [rows, width] = rowsAndColumns(hidden);
  checkIsShape(action, weight, [-1, width], "weight");
  if (targets.size !== rows) {
    throw new RangeError(
      `Cannot ${action} of hidden ${showShape(hidden.shape)} and targets ${
        showShape(targets.shape)
      }: wanted one target for each of ${rows} rows`,
    );
  }
  const { count, logitBytes = LOGIT_BYTES } = options;
  const wanted = {
    hidden: isTracking() && needsGrad(hidden),
    weight: isTracking() && needsGrad(weight),
  };
  const { losses, dHidden, dWeight } = noGrad(() =>
    sumOfLosses(hidden, weight, targets, wanted, logitBytes)
  );
  const { loss, inverse } = meanLoss(losses, targets, count);
  return track("linear_cross_entropy", loss, [hidden, weight], (g, needs, earlier) => [
    needs[0] && dHidden ? scaled(dHidden, inverse, g, earlier.take(0)) : null,
    needs[1] && dWeight ? scaled(dWeight, inverse, g, earlier.take(1)) : null,
  ]);
}
