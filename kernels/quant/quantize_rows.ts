/**
 * Activations in 8 bits: rows as signed bytes with a scale, either each row's own, found as it is quantized (dynamic), or one
 * that calibration has fixed (static).
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { checkDType, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { rowGrid, ROWS_WGSL, splitRows } from "../rows.ts";
import roundingCode from "./byte_rounding.wgsl" with { type: "text" };
import dequantizeCode from "./dequantize_rows.wgsl" with { type: "text" };
import code from "./quantize_rows.wgsl" with { type: "text" };

/** How activations become bytes. */
export type ActivationScheme =
  /** Each row (token) has the scale `absmax / 127`; zero is 0. */
  | { readonly kind: "dynamic" }
  /** `q = clamp(round(x / scale) + zero, least, 127)` with numbers that calibration has fixed. */
  | {
    readonly kind: "static";
    /** The step between neighbours, above 0. */
    readonly scale: number;
    /** The byte that stands for 0, −128 to 127; 0 where the range is symmetric. */
    readonly zero: number;
    /** The least byte in use, −128 or −127; −127 by default where `zero` is 0, and else −128. */
    readonly least?: number;
  };

/** Rows of signed bytes. */
export interface QuantizedRows {
  /** [..., columns] of what was quantized. */
  readonly shape: readonly number[];
  /** u32 [rows, words]: four bytes to a word, the first in the low bits; behind a row's end the bytes are 0. */
  readonly codes: Tensor;
  /** f32 [rows]: a number is `(byte − zero) · scale`. NaN for a row in which a number is NaN or infinite. */
  readonly scales: Tensor;
  /** The byte that stands for 0. */
  readonly zero: number;
}

/** Loads of four elements of a row; an odd end is filled up with 0. */
const QUAD_LOAD = `
fn four(row: u32, i: u32) -> vec4<f32> { return x[row * params.words + i]; }
`;
const SINGLE_LOAD = `
fn four(row: u32, i: u32) -> vec4<f32> {
  var v = vec4<f32>();
  for (var j = 0u; j < min(4u, params.columns - 4u * i); j++) {
    v[j] = x[row * params.columns + 4u * i + j];
  }
  return v;
}
`;

function source(type: string, load: string): string {
  return ROWS_WGSL + roundingCode + code.replace("array<X>", `array<${type}>`) + load;
}

const quadKernel: Kernel = kernel("quantize_rows", source("vec4<f32>", QUAD_LOAD));
const singleKernel: Kernel = kernel("quantize_rows", source("f32", SINGLE_LOAD));
const dequantizeKernel = kernel("dequantize_rows", dequantizeCode);

/** The bits of a NaN. */
const NOT_A_NUMBER = 0x7fc00000;

/** The end of the parameters of kernels that round: a scheme for byte_rounding.wgsl. */
export function roundingParams(scheme: ActivationScheme): number[] {
  const { scale, zero, least } = checkActivationScheme(scheme);
  return [...[scale, zero, least].map(floatBits), NOT_A_NUMBER];
}

/** Whether two schemes round alike. */
export function isSameRounding(a: ActivationScheme, b: ActivationScheme): boolean {
  const [left, right] = [checkActivationScheme(a), checkActivationScheme(b)];
  return left.scale === right.scale && left.zero === right.zero && left.least === right.least;
}

/**
 * Throws a RangeError unless a scheme makes sense.
 *
 * @returns the scale, 0 where each row has its own, the zero point and the least byte
 */
export function checkActivationScheme(
  scheme: ActivationScheme,
): { scale: number; zero: number; least: number } {
  if (scheme.kind === "dynamic") return { scale: 0, zero: 0, least: -127 };
  const { scale, zero, least = zero === 0 ? -127 : -128 } = scheme;
  if (!(scale > 0 && Number.isFinite(Math.fround(scale)) && Math.fround(scale) >= 2 ** -126)) {
    throw new RangeError(
      `Cannot quantize activations with a scale of ${scale}: wanted a finite number above 0; calibrate on a text first`,
    );
  }
  if (!Number.isInteger(zero) || zero < -128 || zero > 127) {
    throw new RangeError(
      `Cannot quantize activations with a zero point of ${zero}: wanted a whole number from -128 to 127`,
    );
  }
  if (least !== -127 && least !== -128) {
    throw new RangeError(`Cannot quantize activations from ${least} on: wanted -127 or -128`);
  }
  return { scale, zero, least };
}

/**
 * Quantizes rows to signed bytes. A row of zeros (of nothing above 1e-30) gets the scale 0, and decodes to zeros. A number that
 * lies halfway between two bytes may go to the other than the reference takes, as a device's division need not round to nearest.
 *
 * @param x f32 [..., columns]
 * @param scheme a scale for each row, or a fixed one; numbers outside of a fixed range saturate
 * @throws {RangeError} if the scheme makes no sense
 *
 * @example
 * ```ts
 * import { openDevice, quantizeRows, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([127, -1, 2, 3]), [1, 4]);
 * const { codes, scales } = quantizeRows(x, { kind: "dynamic" });
 * console.log((await codes.read())[0].toString(16), await scales.read()); // 302ff7f Float32Array(1) [ 1 ]
 * ```
 */
export function quantizeRows(x: Tensor, scheme: ActivationScheme): QuantizedRows {
  checkDType("quantize activations", x, "f32", "x");
  const { zero } = checkActivationScheme(scheme);
  const [rows, columns] = rowsAndColumns(x);
  const { device } = x;
  const words = Math.ceil(columns / 4);
  const codes = empty(device, [rows, words], "u32");
  const scales = empty(device, [rows]);
  const split = splitRows(device, columns);
  device.dispatch(
    columns % 4 === 0 ? quadKernel : singleKernel,
    [x, codes, scales, uniform(rows, columns, words, ...roundingParams(scheme))],
    rowGrid(rows, split),
    { ...split },
  );
  return { shape: x.shape, codes, scales, zero };
}

/** What quantized rows decode to, f32 of the shape that was quantized. */
export function dequantizeRows({ shape, codes, scales, zero }: QuantizedRows): Tensor {
  const { device } = codes;
  const [rows, words] = codes.shape;
  const out = empty(device, shape);
  device.dispatch(
    dequantizeKernel,
    [codes, scales, out, uniform(rows, shape.at(-1)!, words, floatBits(zero))],
    gridOf(Math.ceil(rows * words / 64)),
  );
  return out;
}
