/**
 * Integer weights whose inputs are rounded to 8 bits before the product.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import { int8Matmul } from "../linear/int8_matmul.ts";
import { codeSums } from "../linear/int8_product.ts";
import { type ByteFactor, hasByteCodes } from "../linear/int8_words.ts";
import type { IntegerTensor } from "./integer.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import { type ActivationScheme, checkActivationScheme } from "./quantize_rows.ts";

/** A weight in whole numbers that rounds its inputs itself; see `int8Matmul`. */
export class RoundingTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** "rounding-" and the scheme of the whole numbers. */
  readonly scheme: string;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** The whole numbers. */
  readonly weight: IntegerTensor;
  /** How inputs become bytes. */
  readonly activations: ActivationScheme;
  /** `codeSums` of the weight, where inputs have a zero point. */
  readonly sums: Tensor | undefined;

  /**
   * Takes a weight as it is, without a copy.
   *
   * @throws {RangeError} if the scheme of activations makes no sense
   */
  constructor(weight: IntegerTensor, activations: ActivationScheme) {
    const { zero } = checkActivationScheme(activations);
    this.device = weight.device;
    this.scheme = `rounding-${weight.scheme}`;
    this.shape = weight.shape;
    this.weight = weight;
    this.activations = activations;
    if (zero !== 0 && hasByteCodes(weight)) this.sums = this.device.keep(codeSums(weight));
  }

  /** Bytes of the weight, and of the sums of its codes. */
  get bytes(): number {
    return this.weight.bytes + (this.sums?.bytes ?? 0);
  }

  /** The weight as f32 [rows, columns]. */
  dequantize(): Tensor {
    return this.weight.dequantize();
  }

  /** `x · Wᵀ (+ add)`, with x rounded first. */
  multiply(x: Tensor, { add }: QuantizedProductOptions = {}): Tensor {
    return int8Matmul(x, this.weight, { activations: this.activations, add, sums: this.sums });
  }

  /** @ignore */
  asBytes(): ByteFactor {
    return this;
  }

  /** Gives its memory back. */
  dispose(): void {
    this.weight.dispose();
    this.sums?.dispose();
  }
}
