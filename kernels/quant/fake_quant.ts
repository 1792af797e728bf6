/**
 * Fake quantization: numbers as they would be after quantizing and decoding, with gradients that let a model be trained so.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkSameShape, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import type { Levels } from "./affine.ts";
import { groupSum } from "./group_sum.ts";
import code from "./fake_quant.wgsl" with { type: "text" };
import backwardCode from "./fake_quant_backward.wgsl" with { type: "text" };

const forwardKernel = kernel("fake_quant", code);
const backwardKernel = kernel("fake_quant_backward", backwardCode);

/** The whole numbers, and how fast scale and zero are learnt. */
export interface FakeQuantOptions extends Levels {
  /** A factor of the gradients of scale and zero; LSQ takes `1 / √(numbers of a group · most)`. 1 by default. */
  readonly gradientFactor?: number;
  /** Numbers along a row that share a scale, if it does not divide the row: the last group is then shorter. */
  readonly groupSize?: number;
}

/** Which scale an element of x [rows, columns] has. */
interface Groups {
  readonly columns: number;
  readonly groupSize: number;
  readonly rowStride: number;
}

/** Groups from the shape of the scales: [] or [1] for one, [rows, 1] for one in each row, [rows, groups]. */
function groupsOf(x: Tensor, scales: Tensor, given?: number): Groups {
  const columns = x.shape.at(-1) ?? 1;
  const rows = x.size / columns;
  if (scales.size === 1 && (given === undefined || rows > 1)) {
    return { columns, groupSize: columns, rowStride: 0 };
  }
  const [own, groups] = scales.shape.length === 1 ? [scales.size, 1] : scales.shape;
  const fits = given === undefined
    ? columns % groups === 0
    : Number.isSafeInteger(given) && given > 0 && groups === Math.ceil(columns / given);
  if (scales.shape.length > 2 || own !== rows || !fits) {
    throw new RangeError(
      `Cannot quantize ${showShape(x.shape)} with scales ${
        showShape(scales.shape)
      }: wanted [1], [${rows}, 1], or [${rows}, groups] with groups ${
        given === undefined ? `a divisor of ${columns}` : `of ${given} in ${columns}`
      }`,
    );
  }
  return { columns, groupSize: given ?? columns / groups, rowStride: groups };
}

/**
 * `(clamp(round(x / scale) + zero) − zero) · scale`. The gradient of x passes where it was not clamped (the straight-through
 * estimator; Bengio et al., arXiv 1308.3432); those of scale and zero are LSQ's (Esser et al., arXiv 1902.08153; Bhalgat et al.,
 * arXiv 2004.09576). Zeros are rounded before they are used. NaN and infinity stay what they are, so that they are noticed.
 *
 * @param x f32 [..., columns]
 * @param scales f32 [1] for all, [rows, 1] for each row, or [rows, groups] for groups along a row; 0 leaves numbers as they are
 * @param zeros f32, as scales
 * @param options the least and the largest whole number, and LSQ's factor
 * @returns f32, as x
 * @throws {RangeError} if the scales do not fit
 *
 * @example
 * ```ts
 * import { fakeQuantize, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([-1, 0.26, 5]));
 * const scale = tensor(device, new Float32Array([0.5]));
 * const zero = tensor(device, new Float32Array([0]));
 * console.log(await fakeQuantize(x, scale, zero, { least: -8, most: 7 }).read()); // [ -1, 0.5, 3.5 ]
 * ```
 */
export function fakeQuantize(
  x: Tensor,
  scales: Tensor,
  zeros: Tensor,
  options: FakeQuantOptions,
): Tensor {
  for (const t of [x, scales, zeros]) checkDType("quantize", t, "f32");
  checkSameShape("quantize with scales and zeros", scales, zeros);
  const groups = groupsOf(x, scales, options.groupSize);
  const { device } = x;
  const { least, most, gradientFactor = 1 } = options;
  const out = empty(device, x.shape);
  const words = [
    ...[x.size, groups.columns, groups.groupSize, groups.rowStride],
    ...[floatBits(least), floatBits(most), floatBits(gradientFactor)],
  ];
  const grid = gridOf(Math.ceil(x.size / 64));
  device.dispatch(forwardKernel, [x, scales, zeros, out, uniform(...words.slice(0, 6))], grid);
  return track("fake_quant", out, [x, scales, zeros], (g, needs) => {
    const learn = needs[1] || needs[2];
    const dX = empty(device, x.shape);
    // Without learning, the kernel has bindings for these and leaves them alone: one element each.
    const each = () => empty(device, learn ? x.shape : [1]);
    const [dScales, dZeros] = [each(), each()];
    device.dispatch(
      backwardKernel,
      [kept(x), scales, zeros, g, dX, dScales, dZeros, uniform(...words)],
      grid,
      { LEARN: learn ? 1 : 0 },
    );
    const total = (parts: Tensor) =>
      scales.size === 1
        ? viewOf(sum(parts), scales.shape)
        : viewOf(groupSum(parts, groups.groupSize), scales.shape);
    return [dX, needs[1] ? total(dScales) : null, needs[2] ? total(dZeros) : null];
  }, [x]);
}
