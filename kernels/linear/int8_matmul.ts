/**
 * Products in whole numbers: activations in 8 bits times weights in 8 or fewer, with sums in 32-bit integers, and scales at the end.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { type Tensor, viewOf } from "../../core/tensor.ts";
import { IntegerTensor } from "../quant/integer.ts";
import type { ActivationScheme } from "../quant/quantize_rows.ts";
import { multiplyRounded } from "./multiply_rounded.ts";
import { choosePacked, runPacked } from "./packed_matmul.ts";

/** What a product in whole numbers may be given. */
export interface Int8MatmulOptions {
  /** How x becomes bytes; each row with a scale of its own by default. */
  readonly activations?: ActivationScheme;
  /** f32 of the result's shape, added to the product. */
  readonly add?: Tensor;
  /** `codeSums` of the weight, if the caller keeps them; only needed where activations have a zero point. */
  readonly sums?: Tensor;
}

/**
 * `x̂ · Wᵀ (+ add)`, where x̂ is x in 8 bits: with bytes q and scales s,
 * `y = s_x Σ_groups s_w (Σ q_x q_w − z_x Σ q_w − z_w Σ (q_x − z_x))`, with exact sums. Rows with NaN or infinity in them give NaN.
 * Where rows of W, or groups of it, are not whole words of codes (k a multiple of 4 for int8, of 8 for int4), and where codes have 3
 * or 2 bits, both factors are decoded instead, as they are on software Vulkan: the result is the same but for rounding.
 *
 * The gradient of x is `dy · W`: rounding counts as the identity, also where a fixed range clips. W has none.
 *
 * @param x f32 [..., k]
 * @param weight integers [n, k]
 * @param options how x is quantized, what is added
 * @returns f32 [..., n]
 * @throws {TypeError} if the weight is in another scheme
 * @throws {RangeError} if inner sizes differ
 *
 * @example
 * ```ts
 * import { int8Matmul, openDevice, quantizeInteger, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const weight = quantizeInteger(device, new Float32Array([127, 0, 0, 0, 1, 2, 3, 127]), [2, 4], { type: "int8" });
 * const x = tensor(device, new Float32Array([1, 2, 3, 127]), [1, 4]);
 * console.log(await int8Matmul(x, weight).read()); // Float32Array(2) [ 127, 16143 ]
 * ```
 */
export function int8Matmul(
  x: Tensor,
  weight: IntegerTensor,
  options: Int8MatmulOptions = {},
): Tensor {
  checkDType("multiply", x, "f32", "x");
  if (!(weight instanceof IntegerTensor)) {
    throw new TypeError(
      `Cannot multiply bytes by a weight in ${
        (weight as { scheme?: string }).scheme ?? typeof weight
      }: wanted integers; use quantizeInteger`,
    );
  }
  const { activations = { kind: "dynamic" }, add, sums } = options;
  const [n, k] = weight.shape;
  const [m, inner] = rowsAndColumns(x);
  if (inner !== k) {
    throw new RangeError(
      `Cannot multiply ${showShape(x.shape)} by ${weight.scheme} ${
        showShape(weight.shape)
      }ᵀ: inner sizes are ${inner} and ${k}`,
    );
  }
  if (add) checkIsShape("add to a product", add, [...x.shape.slice(0, -1), n], "add");
  const [out] = multiplyRounded({ x, factors: [{ weight, activations, sums }], add });
  const inputs = add ? [x, add] : [x];
  return track("int8_matmul", out, inputs, (g, needs, earlier) => {
    const packed = weight.asFactor();
    const variant = choosePacked(g.device, packed, m, false);
    const dX = needs[0] ? runPacked(g, packed, false, variant, earlier.take(0)) : null;
    return [dX && viewOf(dX, x.shape), g].slice(0, inputs.length);
  });
}
