/**
 * Products with a quantized weight of any scheme, by way of its f32 matrix.
 *
 * @module
 */
import { noGrad, track } from "../../core/autograd.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "../quant/quantized_tensor.ts";
import { matmul } from "./matmul.ts";

/** `x · W (+ add)`, or with `transposed` `x · Wᵀ (+ add)`, with W decoded for this product alone. */
function product(x: Tensor, w: QuantizedTensor, transposed: boolean, add?: Tensor): Tensor {
  return noGrad(() => {
    const dense = w.dequantize();
    const out = matmul(x, dense, { transposeB: transposed, add });
    x.device.free(dense.storage);
    return out;
  });
}

/**
 * `x · Wᵀ (+ add)` for schemes without a kernel that decodes within the product. The f32 matrix lives for one product; it is
 * decoded again for the gradient of x, `dy · W`.
 *
 * @param x f32 [..., columns]
 * @param w the weight [rows, columns]
 * @param options what is added
 * @returns f32 [..., rows]
 * @throws {RangeError} if inner sizes differ
 */
export function decodedMatmul(
  x: Tensor,
  w: QuantizedTensor,
  options: QuantizedProductOptions = {},
): Tensor {
  checkDType("multiply", x, "f32", "x");
  const { add } = options;
  const [rows, columns] = w.shape;
  const [, inner] = rowsAndColumns(x);
  if (inner !== columns) {
    throw new RangeError(
      `Cannot multiply ${showShape(x.shape)} by ${w.scheme} ${
        showShape(w.shape)
      }ᵀ: inner sizes are ${inner} and ${columns}`,
    );
  }
  if (add) checkIsShape("add to a product", add, [...x.shape.slice(0, -1), rows], "add");
  const inputs = add ? [x, add] : [x];
  return track("decoded_matmul", product(x, w, true, add), inputs, (g, needs, earlier) =>
    [
      needs[0] ? product(g, w, false, earlier.take(0)) : null,
      g,
    ].slice(0, inputs.length));
}
