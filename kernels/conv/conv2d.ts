/**
 * Convolutions of pictures.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, checkRank, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { matmul } from "../linear/matmul.ts";
import { add } from "../pointwise/arithmetic.ts";
import { reshape } from "../pointwise/reshape.ts";
import code from "./conv2d.wgsl" with { type: "text" };
import backwardCode from "./conv2d_backward.wgsl" with { type: "text" };

const unfold = kernel("conv2d_unfold", code);
const fold = kernel("conv2d_fold", backwardCode);

/** How a kernel moves over a picture. */
export interface Conv2dOptions {
  /** f32 [outChannels], added to every pixel of the result. */
  readonly bias?: Tensor | null;
  /** Pixels from one place of the kernel to the next; 1 by default. */
  readonly stride?: number;
  /** Zeros around the picture, on each side; 0 by default. */
  readonly padding?: number;
}

/** The pixels under the kernel at each of its places, side by side: [batch · rows · columns, kernelHeight · kernelWidth · channels]. */
function patches(
  x: Tensor,
  [kernelHeight, kernelWidth]: readonly number[],
  [rows, columns]: readonly number[],
  { stride = 1, padding = 0 }: Conv2dOptions,
): Tensor {
  const { device } = x;
  const [batch, height, width, channels] = x.shape;
  const out = empty(device, [batch * rows * columns, kernelHeight * kernelWidth * channels]);
  const words = [
    ...[height, width, channels, rows, columns],
    ...[kernelHeight, kernelWidth, stride, padding],
  ];
  const grid = (t: Tensor) => gridOf(Math.ceil(t.size / 64));
  device.dispatch(unfold, [x, out, uniform(...words, out.size)], grid(out));
  return track("conv2d_unfold", out, [x], (g) => {
    const dX = empty(device, x.shape);
    device.dispatch(fold, [g, dX, uniform(...words, x.size)], grid(x));
    return [dX];
  });
}

/** Places of a kernel along a side. */
function placesOf(
  x: Tensor,
  weight: Tensor,
  axis: 1 | 2,
  { stride = 1, padding = 0 }: Conv2dOptions,
): number {
  const whole = Number.isInteger(stride) && stride > 0 && Number.isInteger(padding) && padding >= 0;
  const length = x.shape[axis] + 2 * padding;
  if (!whole || weight.shape[axis] > length) {
    throw new RangeError(
      `Cannot convolve ${showShape(x.shape)} with ${
        showShape(weight.shape)
      }, stride ${stride} and padding ${padding}: wanted a kernel that fits into the padded picture, a whole ` +
        "stride above 0, and a whole padding of 0 or more",
    );
  }
  return Math.floor((length - weight.shape[axis]) / stride) + 1;
}

/**
 * A convolution of pictures with channels last (the cross-correlation that deep learning calls so). It copies the pixels under
 * each place of the kernel side by side and is one matrix product from there: the copy, held for the backward pass, has
 * kernelHeight · kernelWidth / stride² times the picture's numbers.
 *
 * @param x f32 [batch, height, width, channels]
 * @param weight f32 [outChannels, kernelHeight, kernelWidth, channels]: one row for each output channel, as a linear layer has it
 * @param options bias, stride, padding
 * @returns f32 [batch, rows, columns, outChannels]; gradients flow into x, weight and bias
 * @throws {RangeError} if channels differ, or the kernel is larger than the padded picture
 *
 * @example
 * ```ts
 * import { conv2d, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4, 5, 6, 7, 8, 9]), [1, 3, 3, 1]);
 * const weight = tensor(device, new Float32Array([1, 0, 0, -1]), [1, 2, 2, 1]);
 * console.log(await conv2d(x, weight).read()); // Float32Array(4) [ -4, -4, -4, -4 ]
 * ```
 */
export function conv2d(x: Tensor, weight: Tensor, options: Conv2dOptions = {}): Tensor {
  for (const t of [x, weight]) {
    checkDType("convolve", t, "f32");
    checkRank("convolve", t, 4, t === x ? "x" : "weight");
  }
  const { bias } = options;
  const [outChannels, kernelHeight, kernelWidth] = weight.shape;
  checkIsShape("convolve", weight, [-1, -1, -1, x.shape[3]], "weight");
  if (bias) checkIsShape("convolve", bias, [outChannels], "bias");
  const places = [placesOf(x, weight, 1, options), placesOf(x, weight, 2, options)];
  const pixels = patches(x, [kernelHeight, kernelWidth], places, options);
  const product = matmul(pixels, reshape(weight, [outChannels, -1]), { transposeB: true });
  const out = bias ? add(product, bias) : product;
  return reshape(out, [x.shape[0], ...places, outChannels]);
}
