/**
 * A weight in two parts: a few input channels in 16 bits, all others in few bits. As LLM.int8 treats outliers, Dettmers et al. (arXiv
 * 2208.07339).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import { matmul } from "../linear/matmul.ts";
import { add as sum } from "../pointwise/arithmetic.ts";
import { cast } from "../pointwise/cast.ts";
import { type ColumnChoice, pickColumns } from "../pointwise/pick_columns.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";

/**
 * A weight matrix whose chosen columns are kept in 16 bits: `x · Wᵀ` is the product of the chosen channels with those, and of all with
 * the quantized rest, in which these columns are 0. So the rest keeps its shape, and its groups are whole.
 */
export class OutlierTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** The scheme of the rest with "+kept" behind it. */
  readonly scheme: string;
  /** [out features, in features]. */
  readonly shape: readonly [rows: number, columns: number];
  /** The columns that are not kept. */
  readonly rest: QuantizedTensor;
  /** f16 [rows, kept]: what the rest lacks in the chosen columns. */
  readonly kept: Tensor;
  /** Which they are. */
  readonly choice: ColumnChoice;

  /** Takes the parts as they are: the rest, f16 [rows, kept], and which columns these are. */
  constructor(rest: QuantizedTensor, kept: Tensor, choice: ColumnChoice) {
    this.device = rest.device;
    this.scheme = `${rest.scheme}+kept`;
    this.shape = rest.shape;
    this.rest = rest;
    this.kept = kept;
    this.choice = choice;
  }

  /** Bytes of the rest, of the kept columns in 16 bits, and of their numbers in 32. */
  get bytes(): number {
    return this.rest.bytes + this.kept.bytes + 4 * this.kept.shape[1];
  }

  /** The weights as f32 [rows, columns]. */
  dequantize(): Tensor {
    const { columns, places } = this.choice;
    // The other way round: each column of the whole has its place among the kept ones, or none.
    const back = { whole: this.kept.shape[1], columns: places, places: columns };
    return this.device.scope(() =>
      noGrad(() => sum(this.rest.dequantize(), pickColumns(cast(this.kept, "f32"), back)))
    );
  }

  /** `x · Wᵀ (+ add)`: two products, the second added to the first. */
  multiply(x: Tensor, { add }: QuantizedProductOptions = {}): Tensor {
    const few = pickColumns(x, this.choice);
    const first = matmul(few, this.kept, { transposeB: true, add });
    return this.rest.multiply(x, { add: first });
  }

  /** Gives its memory back. */
  dispose(): void {
    this.rest.dispose();
    this.kept.dispose();
    this.choice.columns.dispose();
    this.choice.places.dispose();
  }
}
