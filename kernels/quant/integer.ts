/**
 * Weights in 8 or 4 bits as whole numbers with a scale: INT8 by rows, symmetric, and INT4 by groups, with a zero point.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { showShape } from "../../core/shape.ts";
import { empty, type Tensor, tensor } from "../../core/tensor.ts";
import { integerWeight } from "../linear/integer_matmul.ts";
import { packedMatmul, type PackedWeight } from "../linear/packed_matmul.ts";
import { fitsIntegerFormat } from "../linear/weight_format.ts";
import dequantizeCode from "./integer_dequantize.wgsl" with { type: "text" };
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import { roundHalfEven } from "./rounding.ts";

const dequantizeKernel = kernel("integer_dequantize", dequantizeCode);

/** The integer types. */
export type IntegerType = "int8" | "int4";

/** How a weight is quantized to integers. */
export interface IntegerOptions {
  /**
   * "int8": −127 to 127 times a scale. "int4": 0 to 15 less a zero point, times a scale; the range always holds 0, so that 0 stays
   * exact.
   */
  readonly type: IntegerType;
  /** Weights along a row that share a scale. By default the whole row for int8, 64 for int4. The last group may be shorter. */
  readonly groupSize?: number;
}

/** Codes and scales on the host. */
interface IntegerCodes {
  /** Codes side by side in words, the first in the low bits; int8's are 128 higher. */
  readonly packed: Uint32Array<ArrayBuffer>;
  /** For each group its scale and zero. */
  readonly scales: Float32Array<ArrayBuffer>;
}

/** A weight matrix in integers. */
export class IntegerTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** "int8" or "int4". */
  readonly scheme: IntegerType;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** Weights along a row that share a scale. */
  readonly groupSize: number;
  /** u32: the codes. */
  readonly packed: Tensor;
  /** f32 [rows, groups, 2]: scales and zeros. */
  readonly scales: Tensor;
  /** Whether a zero may be other than the middle of the codes' range, 128 or 8: without, kernels need not subtract it. */
  readonly zeros: boolean;

  /** Use `quantizeInteger`. */
  constructor(
    shape: readonly [number, number],
    scheme: IntegerType,
    groupSize: number,
    packed: Tensor,
    scales: Tensor,
    zeros = true,
  ) {
    this.device = packed.device;
    this.shape = shape;
    this.scheme = scheme;
    this.groupSize = groupSize;
    this.packed = packed;
    this.scales = scales;
    this.zeros = zeros;
  }

  /** Groups in a row. */
  get groups(): number {
    return Math.ceil(this.shape[1] / this.groupSize);
  }

  /** Bytes of codes and scales as a file would hold them: a float for each scale, and half a byte for each zero point of int4. */
  get bytes(): number {
    const [rows, columns] = this.shape;
    const groups = rows * this.groups;
    return this.scheme === "int8"
      ? rows * columns + 4 * groups
      : Math.ceil(rows * columns / 2) + 4 * groups + Math.ceil(groups / 2);
  }

  /** The weights as f32 [rows, columns]. */
  dequantize(): Tensor {
    const [rows, columns] = this.shape;
    const size = rows * columns;
    const out = empty(this.device, this.shape);
    const bits = this.scheme === "int8" ? 8 : 4;
    this.device.dispatch(
      dequantizeKernel,
      [this.packed, this.scales, out, uniform(size, columns, this.groupSize, this.groups)],
      gridOf(Math.ceil(size * bits / 32 / 64)),
      { BITS: bits, WHOLE: fitsIntegerFormat(this, 1) ? 1 : 0 },
    );
    return out;
  }

  /** `x · Wᵀ (+ add)`; see `QuantizedTensor`. */
  multiply(x: Tensor, options: QuantizedProductOptions = {}): Tensor {
    return packedMatmul(x, this.asFactor(), options);
  }

  /** @ignore How kernels multiply by it. */
  asFactor(): PackedWeight {
    return integerWeight(this);
  }

  /** Gives its memory back. */
  dispose(): void {
    this.packed.dispose();
    this.scales.dispose();
  }
}

/** The least and the largest of a group. */
function rangeOf(weights: Float32Array, from: number, to: number): [number, number] {
  let [low, high] = [Infinity, -Infinity];
  for (let i = from; i < to; i++) {
    const weight = weights[i];
    if (!Number.isFinite(weight)) {
      throw new RangeError(
        `Cannot quantize the weight: element ${i} is ${weight}, wanted finite numbers`,
      );
    }
    if (weight < low) low = weight;
    if (weight > high) high = weight;
  }
  return [low, high];
}

/**
 * Codes and scales, in float32 steps: a GPU's division need not round to nearest, and thousands of weights lie on a tie, which
 * goes to the even code as in PyTorch.
 */
function encode(
  weights: Float32Array,
  rows: number,
  columns: number,
  type: IntegerType,
  groupSize: number,
): IntegerCodes {
  const { fround } = Math;
  const bits = type === "int8" ? 8 : 4;
  const each = 32 / bits;
  const groups = Math.ceil(columns / groupSize);
  const packed = new Uint32Array(Math.ceil(rows * columns / each));
  const scales = new Float32Array(2 * rows * groups);
  const [least, most, shift] = type === "int8" ? [-127, 127, 128] : [0, 15, 0];
  for (let group = 0; group < rows * groups; group++) {
    const row = Math.floor(group / groups);
    const from = row * columns + (group - row * groups) * groupSize;
    const to = Math.min(from + groupSize, (row + 1) * columns);
    const [low, high] = rangeOf(weights, from, to);
    const scale = type === "int8"
      ? fround(Math.max(-low, high) / 127)
      : fround(fround(Math.max(high, 0) - Math.min(low, 0)) / 15);
    const zero = type === "int8" || scale === 0
      ? 0
      : roundHalfEven(fround(-Math.min(low, 0) / scale));
    scales[2 * group] = scale;
    scales[2 * group + 1] = zero + shift;
    for (let i = from; i < to; i++) {
      const level = scale === 0 ? 0 : roundHalfEven(fround(weights[i] / scale));
      const code = Math.max(least, Math.min(most, level + zero)) + shift;
      packed[Math.floor(i / each)] |= code << (bits * (i % each));
    }
  }
  return { packed, scales };
}

/**
 * Quantizes a weight matrix to integers, on the host: every step is rounded as in PyTorch.
 *
 * @param device where it shall live
 * @param weights f32, row-major
 * @param shape [rows, columns]
 * @param options the type, and how many weights share a scale
 * @throws {RangeError} if the weight holds NaN or infinity, or the group size is not above 0
 *
 * @example
 * ```ts
 * import { openDevice, quantizeInteger, Random } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const random = new Random(1);
 * const weights = Float32Array.from({ length: 4096 }, () => random.normal());
 * const int4 = quantizeInteger(device, weights, [64, 64], { type: "int4", groupSize: 32 });
 * console.log(int4.bytes, (await int4.dequantize().read())[0], weights[0]);
 * ```
 */
export function quantizeInteger(
  device: Device,
  weights: Float32Array,
  shape: readonly [rows: number, columns: number],
  { type, groupSize }: IntegerOptions,
): IntegerTensor {
  const [rows, columns] = shape;
  if (weights.length !== rows * columns) {
    throw new RangeError(
      `Cannot quantize ${weights.length} numbers as ${showShape(shape)}: it holds ${
        rows * columns
      }`,
    );
  }
  const size = groupSize ?? (type === "int8" ? columns : 64);
  if (!Number.isSafeInteger(size) || size < 1) {
    throw new RangeError(
      `Cannot quantize in groups of ${size}: the size must be a whole number above 0`,
    );
  }
  const { packed, scales } = encode(weights, rows, columns, type, size);
  const groups = Math.ceil(columns / size);
  return new IntegerTensor(
    shape,
    type,
    size,
    device.keep(tensor(device, packed)),
    device.keep(tensor(device, scales, [rows, groups, 2])),
    type === "int4",
  );
}
