/**
 * What kernels need for products of bytes: signed dot products of four, and codes of integer weights as words of bytes.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import type { IntegerTensor } from "../quant/integer.ts";
import type { ActivationScheme, QuantizedRows } from "../quant/quantize_rows.ts";
import { fitsIntegerFormat } from "./weight_format.ts";

/** A product of quantized rows [m, k] and integer weights [n, k], as its kernels see it. */
export interface ByteProduct {
  readonly x: QuantizedRows;
  readonly weight: IntegerTensor;
  /** i32 [n, groups]: sums of the weight's codes, as `codeSums` makes them; wanted where x has a zero point. */
  readonly sums: Tensor | undefined;
  /** f32 [m, n], added. */
  readonly add: Tensor | undefined;
  readonly out: Tensor;
  readonly m: number;
}

/** An integer weight, and how what it multiplies becomes bytes. */
export interface ByteFactor {
  readonly weight: IntegerTensor;
  readonly activations: ActivationScheme;
  /** `codeSums` of the weight, if they are kept. */
  readonly sums?: Tensor;
}

/** What tells the kernels of products apart. */
export interface ByteForm {
  readonly bits: 8 | 4;
  /** Whether weights have zero points. */
  readonly zeros: boolean;
  /** Whether x has one. */
  readonly offset: boolean;
  /** Whether a row of weights has several scales. */
  readonly grouped: boolean;
  /** Whether WGSL's own dot product of bytes is there. */
  readonly native: boolean;
}

/** Whether the device's WGSL has `dot4I8Packed`: a feature of the language, not of the adapter. */
export function hasByteDots(): boolean {
  const { wgslLanguageFeatures: features } = navigator.gpu as GPU & {
    readonly wgslLanguageFeatures?: ReadonlySet<string>;
  };
  return features?.has("packed_4x8_integer_dot_product") ?? false;
}

/** The form of a product. */
export function formOf(
  { weight, x }: { readonly weight: IntegerTensor; readonly x: Pick<QuantizedRows, "zero"> },
  native: boolean = hasByteDots(),
): ByteForm {
  return {
    bits: weight.bits === 8 ? 8 : 4,
    zeros: weight.zeros,
    offset: x.zero !== 0,
    grouped: weight.groups > 1,
    native,
  };
}

/** Whether there are kernels for a weight's codes: for those of 8 and 4 bits, which lie side by side in bytes. */
export function hasByteCodes({ bits }: IntegerTensor): boolean {
  return bits >= 4;
}

/**
 * Whether a weight has codes for which there are kernels, whose words lie within rows, and within groups of scales of which each has
 * `unit` codes or a multiple of that.
 */
export function fitsBytes(weight: IntegerTensor, unit: number): boolean {
  return hasByteCodes(weight) && fitsIntegerFormat(weight) &&
    (weight.groups === 1 || weight.groupSize % unit === 0);
}

/** WGSL: `dot4`, and what codes of weights are as words of signed bytes. */
export function bytesWgsl({ bits, native }: ByteForm): string {
  const dot = native ? "return dot4I8Packed(a, b);" : `
  let x = bitcast<i32>(a);
  let y = bitcast<i32>(b);
  return (x << 24u >> 24u) * (y << 24u >> 24u) + (x << 16u >> 24u) * (y << 16u >> 24u) +
    (x << 8u >> 24u) * (y << 8u >> 24u) + (x >> 24u) * (y >> 24u);`;
  return `
const ONES = 0x01010101u;
fn dot4(a: u32, b: u32) -> i32 {${dot}
}
${
    bits === 8
      ? `
// Codes are 128 higher than the byte that they stand for; zeros, too.
const MIDDLE = 128.0;
fn bytes(codes: u32) -> u32 { return codes ^ 0x80808080u; }`
      : `
const MIDDLE = 0.0;
// Four of eight codes, in order, as bytes: those of the low half of a word.
fn bytes(half: u32) -> u32 {
  let pairs = ((half & 0xffffu) | (half << 8u)) & 0x00ff00ffu;
  return (pairs | (pairs << 4u)) & 0x0f0f0f0fu;
}`
  }
`;
}
