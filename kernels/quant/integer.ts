/**
 * Weights in 8, 4, 3 or 2 bits as whole numbers with a scale: INT8 by rows, symmetric, and the others by groups, with a zero point.
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
import { packCodes } from "./pack_codes.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import type { Range } from "./affine.ts";
import { INTEGER_RANGES, integerGrid, type IntegerRange } from "./integer_range.ts";
import { roundHalfEven } from "./rounding.ts";

const dequantizeKernel = kernel("integer_dequantize", dequantizeCode);

/** The integer types. */
export type IntegerType = "int8" | "int4" | "int3" | "int2";

/** Bits of a code. */
export const INTEGER_BITS: Readonly<Record<IntegerType, number>> = {
  int8: 8,
  int4: 4,
  int3: 3,
  int2: 2,
};

/** How a weight is quantized to integers. */
export interface IntegerOptions {
  /**
   * "int8": −127 to 127 times a scale. "int4", "int3" and "int2": 0 to 15, 7 or 3 less a zero point, times a scale; the range always
   * holds 0, so that 0 stays exact. So it is unless `range` says otherwise.
   */
  readonly type: IntegerType;
  /** Weights along a row that share a scale. By default the whole row for int8, 64 for others. The last group may be shorter. */
  readonly groupSize?: number;
  /** Instead of a group size: a scale for each row, or one for the whole matrix, of which each row has a copy. */
  readonly per?: "channel" | "tensor";
  /** How a range becomes a scale: see `AffineScheme`. "symmetric" by default for int8, "asymmetric" for others. */
  readonly range?: IntegerRange;
}

/** Codes and scales on the host. */
interface IntegerCodes {
  /** One after the other, from 0 on. */
  readonly codes: Uint8Array;
  /** For each group its scale and zero. */
  readonly scales: Float32Array<ArrayBuffer>;
}

/**
 * Bits that a file takes for a zero: none if all lie in the middle of the codes' range, those of a code if all are codes themselves,
 * and else those of a float, 16 where that is enough for all.
 *
 * @param type the codes'
 * @param scales a scale and a zero for each group
 */
export function zeroBits(type: IntegerType, scales: Float32Array): number {
  const bits = INTEGER_BITS[type];
  let most = 0;
  for (let i = 1; i < scales.length; i += 2) {
    const zero = scales[i];
    if (zero === 2 ** (bits - 1)) continue;
    const isCode = Number.isInteger(zero) && zero >= 0 && zero < 2 ** bits;
    most = Math.max(most, isCode ? bits : Math.f16round(zero) === zero ? 16 : 32);
  }
  return most;
}

/** Codes as they lie on the device: in whole texels, and so with a word behind the last one that kernels may load with it. */
export function deviceCodes(type: IntegerType, codes: Uint8Array): Uint32Array<ArrayBuffer> {
  const words = packCodes(codes, INTEGER_BITS[type]);
  if (type !== "int3") return words;
  const whole = new Uint32Array(4 * Math.ceil((words.length + 1) / 4));
  whole.set(words);
  return whole;
}

/** A weight matrix in integers. */
export class IntegerTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** "int8", "int4", "int3" or "int2". */
  readonly scheme: IntegerType;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** Weights along a row that share a scale. */
  readonly groupSize: number;
  /** u32: the codes, side by side without gaps, row after row, the first in the low bits; int3's with words behind them. */
  readonly packed: Tensor;
  /** f32 [rows, groups, 2]: scales and zeros. */
  readonly scales: Tensor;
  /** Bits that a file takes for a zero: 0 where all are the middle of the codes' range, such as 128 or 8. */
  readonly zeroBits: number;

  /** Use `quantizeInteger`. */
  constructor(
    shape: readonly [number, number],
    scheme: IntegerType,
    groupSize: number,
    packed: Tensor,
    scales: Tensor,
    zeroBits: number,
  ) {
    this.device = packed.device;
    this.shape = shape;
    this.scheme = scheme;
    this.groupSize = groupSize;
    this.packed = packed;
    this.scales = scales;
    this.zeroBits = zeroBits;
  }

  /** Groups in a row. */
  get groups(): number {
    return Math.ceil(this.shape[1] / this.groupSize);
  }

  /** Bits of a code. */
  get bits(): number {
    return INTEGER_BITS[this.scheme];
  }

  /** Whether a zero may be other than the middle of the codes' range: without, kernels need not subtract it. */
  get zeros(): boolean {
    return this.zeroBits > 0;
  }

  /** Bytes of codes and scales as a file would hold them: a float for each scale, and `zeroBits` for each zero point. */
  get bytes(): number {
    const [rows, columns] = this.shape;
    const groups = rows * this.groups;
    return Math.ceil(rows * columns * this.bits / 8) + 4 * groups +
      Math.ceil(groups * this.zeroBits / 8);
  }

  /** The weights as f32 [rows, columns]. */
  dequantize(): Tensor {
    const [rows, columns] = this.shape;
    const size = rows * columns;
    const out = empty(this.device, this.shape);
    const { bits } = this;
    const each = bits === 3 ? 8 : 32 / bits;
    this.device.dispatch(
      dequantizeKernel,
      [this.packed, this.scales, out, uniform(size, columns, this.groupSize, this.groups)],
      gridOf(Math.ceil(size / each / 64)),
      { BITS: bits, WHOLE: fitsIntegerFormat(this, each) ? 1 : 0 },
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
function rangeOf(weights: Float32Array, from: number, to: number): Range {
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
  return { low, high };
}

function checkChoice(name: string, found: string, wanted: readonly string[]): void {
  if (wanted.includes(found)) return;
  throw new RangeError(
    `Cannot quantize to integers: ${name} is ${JSON.stringify(found)}, wanted ${
      wanted.map((own) => `"${own}"`).join(", ")
    }`,
  );
}

/** What `encode` is told: how many weights of a row share a scale, and whether all do. */
interface Encoding {
  readonly bits: number;
  readonly range: IntegerRange;
  readonly groupSize: number;
  readonly whole: boolean;
}

/**
 * Codes and scales, in float32 steps: a GPU's division need not round to nearest, and thousands of weights lie on a tie, which
 * goes to the even code as in PyTorch.
 */
function encode(
  weights: Float32Array,
  rows: number,
  columns: number,
  { bits, range, groupSize, whole }: Encoding,
): IntegerCodes {
  const { fround } = Math;
  const groups = Math.ceil(columns / groupSize);
  const codes = new Uint8Array(rows * columns);
  const scales = new Float32Array(2 * rows * groups);
  const all = whole ? integerGrid(rangeOf(weights, 0, weights.length), bits, range) : null;
  for (let group = 0; group < rows * groups; group++) {
    const row = Math.floor(group / groups);
    const from = row * columns + (group - row * groups) * groupSize;
    const to = Math.min(from + groupSize, (row + 1) * columns);
    const { scale, zero, least, most } = all ??
      integerGrid(rangeOf(weights, from, to), bits, range);
    scales[2 * group] = scale;
    scales[2 * group + 1] = zero;
    for (let i = from; i < to; i++) {
      const level = scale === 0 ? 0 : roundHalfEven(fround(weights[i] / scale));
      codes[i] = Math.max(least, Math.min(most, level + zero));
    }
  }
  return { codes, scales };
}

/**
 * Quantizes a weight matrix to integers, on the host: every step is rounded as in PyTorch.
 *
 * @param device where it shall live
 * @param weights f32, row-major
 * @param shape [rows, columns]
 * @param options the type, and how many weights share a scale
 * @throws {RangeError} if the weight holds NaN or infinity, or the group size is not above 0
 * @throws {TypeError} if there is a group size, and `per` too
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
  { type, groupSize, per, range = type === "int8" ? "symmetric" : "asymmetric" }: IntegerOptions,
): IntegerTensor {
  const [rows, columns] = shape;
  checkChoice("type", type, Object.keys(INTEGER_BITS));
  checkChoice("range", range, INTEGER_RANGES);
  if (per !== undefined) checkChoice("per", per, ["channel", "tensor"]);
  if (weights.length !== rows * columns) {
    throw new RangeError(
      `Cannot quantize ${weights.length} numbers as ${showShape(shape)}: it holds ${
        rows * columns
      }`,
    );
  }
  if (per !== undefined && groupSize !== undefined) {
    throw new TypeError(
      `Cannot quantize in groups of ${groupSize} and with a scale for each ${per}: wanted one of them`,
    );
  }
  const size = groupSize ?? (type === "int8" || per ? columns : 64);
  if (!Number.isSafeInteger(size) || size < 1) {
    throw new RangeError(
      `Cannot quantize in groups of ${size}: the size must be a whole number above 0`,
    );
  }
  const { codes, scales } = encode(weights, rows, columns, {
    ...{ bits: INTEGER_BITS[type], range, groupSize: size, whole: per === "tensor" },
  });
  const groups = Math.ceil(columns / size);
  return new IntegerTensor(
    shape,
    type,
    size,
    device.keep(tensor(device, deviceCodes(type, codes))),
    device.keep(tensor(device, scales, [rows, groups, 2])),
    zeroBits(type, scales),
  );
}
