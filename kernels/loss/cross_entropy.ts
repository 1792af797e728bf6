/**
 * Cross-entropy of logits against class numbers.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import code from "./cross_entropy.wgsl" with { type: "text" };
import backwardCode from "./cross_entropy_backward.wgsl" with { type: "text" };
import meanCode from "./cross_entropy_mean.wgsl" with { type: "text" };

const forward = kernel("cross_entropy", ROWS_WGSL + code);
const mean = kernel("cross_entropy_mean", ROWS_WGSL + meanCode);
const backward = kernel("cross_entropy_backward", backwardCode);

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
  const split = splitRows(device, classes);
  const bindings = [logits, targets, losses, logSums, uniform(rows, classes)];
  device.dispatch(forward, bindings, rowGrid(rows, split), { ...split });
  return { losses, logSums };
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
  const out = empty(device, [1]);
  const inverse = empty(device, [1]);
  const { count } = options;
  device.dispatch(
    mean,
    [losses, targets, count ?? losses, out, inverse, uniform(rows, count ? 1 : 0)],
    [1],
    { LANES: device.adapter.type === "software" ? 8 : 256, ROWS: 1 },
  );
  return track("cross_entropy", viewOf(out, []), [logits], (g) => {
    const dLogits = empty(device, logits.shape);
    const params = uniform(rows, classes);
    device.dispatch(
      backward,
      [logits, targets, logSums, inverse, g, dLogits, params],
      gridOf(Math.ceil(logits.size / 64)),
    );
    return [dLogits];
  });
}
