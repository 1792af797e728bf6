/**
 * A linear layer whose weight and whose input are whole numbers.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import type { Weight } from "../../kernels/linear/multiply_many.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import type { ActivationScheme } from "../../kernels/quant/quantize_rows.ts";
import { RoundingTensor } from "../../kernels/quant/rounding_tensor.ts";
import { QuantizedLinear } from "./linear.ts";

/**
 * A linear layer that rounds its input to 8 bits and multiplies in whole numbers; see `int8Matmul`. The weight is frozen:
 * gradients flow through the layer, not into it. A branch on it sees the input before it is rounded.
 *
 * @example
 * ```ts
 * import { openDevice, QuantizedActivationLinear, quantizeInteger, Random, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const random = new Random(1);
 * const numbers = (size: number) => Float32Array.from({ length: size }, () => random.normal());
 * const weight = quantizeInteger(device, numbers(64 * 32), [64, 32], { type: "int8" });
 * const layer = new QuantizedActivationLinear(weight, { kind: "dynamic" });
 * console.log(layer.forward(tensor(device, numbers(3 * 32), [3, 32])).shape); // [ 3, 64 ]
 * ```
 */
export class QuantizedActivationLinear extends QuantizedLinear {
  /** The weight in whole numbers. */
  declare readonly weight: IntegerTensor;
  /** How the input becomes whole numbers. */
  readonly activations: ActivationScheme;
  readonly #rounding: RoundingTensor;

  /**
   * Takes a weight and a bias [outFeatures] as they are, without copies.
   *
   * @throws {RangeError} if the scheme makes no sense
   */
  constructor(weight: IntegerTensor, activations: ActivationScheme, bias: Tensor | null = null) {
    super(weight, bias);
    this.#rounding = new RoundingTensor(weight, activations);
    this.activations = activations;
  }

  /** Bytes of the weight, and of the sums of its codes where the input has a zero point. */
  override get weightBytes(): number {
    return this.#rounding.bytes;
  }

  /** The weight, which rounds what it multiplies. */
  protected override get factor(): Weight {
    return this.#rounding;
  }

  /** The input is rounded, then multiplied. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    return this.#rounding.multiply(x, { add: residual });
  }

  /** Frees the weight, but not the bias. */
  override dispose(): void {
    this.#rounding.dispose();
  }
}
