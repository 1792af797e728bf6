/**
 * Batch normalization.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import code from "./batch_norm.wgsl" with { type: "text" };
import backwardCode from "./batch_norm_backward.wgsl" with { type: "text" };
import mergeCode from "./batch_norm_merge.wgsl" with { type: "text" };
import momentsCode from "./batch_norm_moments.wgsl" with { type: "text" };
import sumsCode from "./batch_norm_sums.wgsl" with { type: "text" };

const forward = kernel("batch_norm", code);
const momentsKernel = kernel("batch_norm_moments", momentsCode);
const merge = kernel("batch_norm_merge", mergeCode);
const sumsKernel = kernel("batch_norm_sums", sumsCode);
const backward = kernel("batch_norm_backward", backwardCode);

/** Mean and variance of each channel. */
export interface ChannelStatistics {
  /** f32 [channels]. */
  readonly mean: Tensor;
  /** f32 [channels]. */
  readonly variance: Tensor;
}

/** How `batchNorm` normalizes. */
export interface BatchNormOptions {
  /** Added to the variance; 1e-5 by default. */
  readonly epsilon?: number;
  /**
   * `true`: by the batch's own mean and variance, which the running ones then follow, in place. `false`, the default: by the running
   * ones, which stay as they are.
   */
  readonly training?: boolean;
  /** How far the running statistics go towards those of a batch: 0.1 by default. */
  readonly momentum?: number;
}

/** Runs that rows are cut into: about as many as each has rows, so that neither a run nor their sum is long. */
function partsOf(rows: number): number {
  return Math.ceil(Math.sqrt(rows));
}

/** The batch's statistics; the running ones follow. */
function batchStatistics(
  x: Tensor,
  running: ChannelStatistics,
  momentum: number,
): ChannelStatistics {
  const { device } = x;
  const [rows, channels] = rowsAndColumns(x);
  if (rows < 2) {
    throw new RangeError(
      `Cannot normalize ${
        showShape(x.shape)
      } by its own statistics: a channel has ${rows} numbers, wanted at least 2`,
    );
  }
  const parts = partsOf(rows);
  const moments = empty(device, [parts, channels, 2]);
  const grid = gridOf(Math.ceil(parts * channels / 64));
  device.dispatch(momentsKernel, [x, moments, uniform(rows, channels, parts)], grid);
  const mean = empty(device, [channels]);
  const variance = empty(device, [channels]);
  const params = uniform(rows, channels, parts, floatBits(momentum));
  const bindings = [moments, mean, variance, running.mean, running.variance, params];
  device.dispatch(merge, bindings, [Math.ceil(channels / 64)]);
  return { mean, variance };
}

/**
 * `(x − mean) / √(variance + ε) · gain + bias`, with mean and variance of each channel (the last axis) over all rows of the batch or,
 * when a trained model is used, running means of them. As in PyTorch, a batch is divided by its biased variance, and the running one
 * is unbiased. Ioffe and Szegedy, "Batch normalization" (arXiv 1502.03167).
 *
 * @param x f32 [..., channels]
 * @param gain f32 [channels]
 * @param bias f32 [channels]
 * @param running f32 [channels] each; with `training` they are changed
 * @param options epsilon, and whether this is training
 * @returns f32 of x's shape; gradients flow into x, gain and bias
 * @throws {RangeError} if a shape does not fit, or there are fewer than two rows in training
 *
 * @example
 * ```ts
 * import { batchNorm, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const of = (...numbers: number[]) => tensor(device, new Float32Array(numbers));
 * const x = tensor(device, new Float32Array([1, 2, 3, 4]), [4, 1]);
 * const running = { mean: of(0), variance: of(1) };
 * console.log(await batchNorm(x, of(1), of(0), running, { training: true }).read()); // [ -1.3416…, -0.4472…, … ]
 * console.log(await running.mean.item()); // 0.25
 * ```
 */
export function batchNorm(
  x: Tensor,
  gain: Tensor,
  bias: Tensor,
  running: ChannelStatistics,
  options: BatchNormOptions = {},
): Tensor {
  const { epsilon = 1e-5, training = false, momentum = 0.1 } = options;
  const { device } = x;
  const [, channels] = rowsAndColumns(x);
  const perChannel = { gain, bias, "running mean": running.mean };
  for (
    const [name, t] of Object.entries({ ...perChannel, "running variance": running.variance })
  ) {
    checkDType("normalize", t, "f32", name);
    checkIsShape("normalize", t, [channels], name);
  }
  checkDType("normalize", x, "f32");
  const { mean, variance } = training ? batchStatistics(x, running, momentum) : running;
  const out = empty(device, x.shape);
  const bits = floatBits(epsilon);
  device.dispatch(
    forward,
    [x, mean, variance, gain, bias, out, uniform(x.size, channels, bits)],
    gridOf(Math.ceil(x.size / 64)),
  );
  return track("batch_norm", out, [x, gain, bias], (g, needs) => {
    const operands = { x, mean, variance, gain, epsilon: bits };
    const sums = training || needs[1] || needs[2] ? gradientSums(operands, g) : null;
    return [
      needs[0] ? gradientOfX(operands, g, training ? sums : null) : null,
      needs[1] ? sums!.gain : null,
      needs[2] ? sums!.bias : null,
    ];
  });
}

/** What the backward pass has. */
interface Operands extends ChannelStatistics {
  readonly x: Tensor;
  readonly gain: Tensor;
  /** Its bits. */
  readonly epsilon: number;
}

/** The gradients of gain and bias, f32 [channels] each. */
interface GradientSums {
  readonly gain: Tensor;
  readonly bias: Tensor;
}

function gradientSums({ x, mean, variance, epsilon }: Operands, g: Tensor): GradientSums {
  const { device } = x;
  const [rows, channels] = rowsAndColumns(x);
  const parts = partsOf(rows);
  const [bias, gain] = [empty(device, [parts, channels]), empty(device, [parts, channels])];
  device.dispatch(
    sumsKernel,
    [x, g, mean, variance, bias, gain, uniform(rows, channels, parts, epsilon)],
    gridOf(Math.ceil(parts * channels / 64)),
  );
  return { gain: sum(gain, { axis: 0 }), bias: sum(bias, { axis: 0 }) };
}

function gradientOfX(
  { x, mean, variance, gain, epsilon }: Operands,
  g: Tensor,
  sums: GradientSums | null,
): Tensor {
  const { device } = x;
  const [rows, channels] = rowsAndColumns(x);
  const dX = empty(device, x.shape);
  // Without sums the kernel has bindings for them and leaves them alone.
  const bindings = [x, g, mean, variance, gain, sums?.bias ?? gain, sums?.gain ?? gain, dX];
  device.dispatch(
    backward,
    [...bindings, uniform(x.size, channels, floatBits(rows), epsilon)],
    gridOf(Math.ceil(x.size / 64)),
    { BATCH: sums ? 1 : 0 },
  );
  return dX;
}
