/**
 * What every quantized weight can do, whatever its scheme.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import type { ByteFactor } from "../linear/int8_words.ts";
import type { PackedWeight } from "../linear/packed_matmul.ts";

/** What a product with a quantized weight may add. */
export interface QuantizedProductOptions {
  /** f32 of the result's shape, added to the product. */
  readonly add?: Tensor;
}

/** A weight matrix [rows, columns] in few bits. It is frozen: gradients flow through it, not into it. */
export interface QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** The scheme's name, such as "nf4". */
  readonly scheme: string;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** Bytes of codes and scales together. */
  readonly bytes: number;
  /** The weights as f32 [rows, columns]. */
  dequantize(): Tensor;
  /** `x · Wᵀ (+ add)`, f32 [..., columns] to [..., rows]; the gradient of x is `dy · W`. */
  multiply(x: Tensor, options?: QuantizedProductOptions): Tensor;
  /** @ignore How kernels multiply by it, for schemes that `multiplyMany` knows. */
  asFactor?(): PackedWeight;
  /** @ignore The same for schemes that round what they multiply to bytes. */
  asBytes?(): ByteFactor;
  /** Gives its memory back. */
  dispose(): void;
}
