/**
 * Integer weights whose inputs are scaled, turned, and rounded to 8 bits before the product: `W · x` as `W' · round(x')`, where
 * `x' = ((x ⊙ before) · H) ⊙ after` and W' undoes that.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import { int8Matmul } from "../linear/int8_matmul.ts";
import type { IntegerTensor } from "./integer.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import { type ActivationScheme, checkActivationScheme } from "./quantize_rows.ts";
import { rotate, type Rotation } from "./rotate.ts";

/** A weight in whole numbers for turned inputs, which it turns and rounds itself. A column whose factor is 0 takes no part. */
export class RotatedTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** "rotated-" and the scheme of the whole numbers. */
  readonly scheme: string;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** The weight for turned inputs. */
  readonly turned: IntegerTensor;
  /** How inputs are turned. */
  readonly rotation: Rotation;
  /** How turned inputs become bytes. */
  readonly activations: ActivationScheme;

  /**
   * Takes the parts as they are.
   *
   * @throws {RangeError} if the scheme of activations makes no sense, or has a zero point
   */
  constructor(turned: IntegerTensor, rotation: Rotation, activations: ActivationScheme) {
    if (checkActivationScheme(activations).zero !== 0) {
      throw new RangeError(
        "Cannot round turned activations with a zero point: wanted 0, as turning leaves them on both sides of it",
      );
    }
    this.device = turned.device;
    this.scheme = `rotated-${turned.scheme}`;
    this.shape = turned.shape;
    this.turned = turned;
    this.rotation = rotation;
    this.activations = activations;
  }

  /** Bytes of the whole numbers with their scales, and of the factors. */
  get bytes(): number {
    const { before, after } = this.rotation;
    return this.turned.bytes + before.bytes + after.bytes;
  }

  /** The weights that multiply x itself, as f32 [rows, columns]. */
  dequantize(): Tensor {
    const { before, after, size } = this.rotation;
    return this.device.scope(() =>
      noGrad(() => rotate(this.turned.dequantize(), { before: after, after: before, size }))
    );
  }

  /** `x · Wᵀ (+ add)`, with x turned and rounded on the way. */
  multiply(x: Tensor, { add }: QuantizedProductOptions = {}): Tensor {
    return int8Matmul(rotate(x, this.rotation), this.turned, {
      activations: this.activations,
      add,
    });
  }

  /** Gives its memory back. */
  dispose(): void {
    this.turned.dispose();
    this.rotation.before.dispose();
    this.rotation.after.dispose();
  }
}
