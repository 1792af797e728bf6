/**
 * A linear layer whose weight and whose input are whole numbers.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { codeSums, int8Matmul } from "../../kernels/linear/int8_matmul.ts";
import { hasByteCodes } from "../../kernels/linear/int8_words.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import { type ActivationScheme, checkActivationScheme } from "../../kernels/quant/quantize_rows.ts";
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
  readonly #sums: Tensor | null;

  /**
   * Takes a weight and a bias [outFeatures] as they are, without copies.
   *
   * @throws {RangeError} if the scheme makes no sense
   */
  constructor(weight: IntegerTensor, activations: ActivationScheme, bias: Tensor | null = null) {
    super(weight, bias);
    const { zero } = checkActivationScheme(activations);
    this.activations = activations;
    const needsSums = zero !== 0 && hasByteCodes(weight);
    this.#sums = needsSums ? weight.device.keep(codeSums(weight)) : null;
  }

  /** Bytes of the weight, and of the sums of its codes where the input has a zero point. */
  override get weightBytes(): number {
    return this.weight.bytes + (this.#sums?.bytes ?? 0);
  }

  /** None: the layer is more than a product. */
  protected override get factor(): null {
    return null;
  }

  /** The input is rounded, then multiplied. */
  protected override product(x: Tensor, residual?: Tensor): Tensor {
    const { weight, activations } = this;
    return int8Matmul(x, weight, { activations, add: residual, sums: this.#sums ?? undefined });
  }

  /** Frees the weight, but not the bias. */
  override dispose(): void {
    super.dispose();
    this.#sums?.dispose();
  }
}
