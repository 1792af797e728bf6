/**
 * Products in whole numbers: activations in 8 bits times weights in 8 or fewer, with sums in 32-bit integers, and scales at the end.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { IntegerTensor } from "../quant/integer.ts";
import {
  type ActivationScheme,
  dequantizeRows,
  type QuantizedRows,
  quantizeRows,
} from "../quant/quantize_rows.ts";
import { byteStream, fitsByteStream } from "./int8_stream.ts";
import sumsCode from "./int8_sums.wgsl" with { type: "text" };
import { byteTiles, fitsByteTiles } from "./int8_tile.ts";
import type { ByteProduct } from "./int8_words.ts";
import { choosePacked, runPacked } from "./packed_matmul.ts";

const sumsKernel = kernel("int8_sums", sumsCode);

/** How a product of bytes is computed; tests and benches choose, users do not. */
export type ByteVariant = "stream" | "tiles" | "decode";

/** What is multiplied. */
type Factors = Omit<ByteProduct, "out" | "sums">;

/** The variant for a product. */
export function chooseBytes(product: Pick<Factors, "weight" | "m">): ByteVariant {
  // Software Vulkan has no instruction for bytes: taken apart and multiplied in integers they take several times as long as floats.
  if (product.weight.device.adapter.type === "software") return "decode";
  if (fitsByteStream(product)) return "stream";
  return fitsByteTiles(product) ? "tiles" : "decode";
}

/**
 * Sums of the codes of each group of weights, i32 [rows, groups]: what a zero point of the activations takes off. They depend on
 * the weight alone, so a layer keeps them. For weights that `hasByteCodes`.
 */
export function codeSums(weight: IntegerTensor): Tensor {
  const [rows, columns] = weight.shape;
  const { device, packed, groupSize, groups, bits } = weight;
  const sums = empty(device, [rows, groups], "i32");
  device.dispatch(
    sumsKernel,
    [packed, sums, uniform(rows, columns, groupSize, groups)],
    gridOf(Math.ceil(rows * groups / 64)),
    { BITS: bits },
  );
  return sums;
}

/** The product of what the rows decode to: the same but for the rounding of sums. */
function decoded({ x, weight, add, m }: Factors): Tensor {
  const decodedRows = dequantizeRows(x);
  const packed = weight.asFactor();
  const variant = choosePacked(weight.device, packed, m, true);
  const out = runPacked(decodedRows, packed, true, variant, add);
  weight.device.free(decodedRows.storage);
  return out;
}

/** Queues a product of rows that are quantized already. Not tracked. */
export function runBytes(
  x: QuantizedRows,
  weight: IntegerTensor,
  options: { readonly add?: Tensor; readonly sums?: Tensor; readonly variant?: ByteVariant } = {},
): Tensor {
  const { device } = weight;
  const { add, sums } = options;
  const own = { x, weight, add, m: x.codes.shape[0] };
  const variant = options.variant ?? chooseBytes(own);
  if (variant === "decode") return decoded(own);
  const out = empty(device, [...x.shape.slice(0, -1), weight.shape[0]]);
  if (variant === "stream") byteStream({ x, m: own.m, weights: [weight], outs: [out], add });
  else {
    const needed = sums ?? (x.zero === 0 ? undefined : codeSums(weight));
    byteTiles({ ...own, sums: needed, out });
    if (needed && !sums) device.free(needed.storage);
  }
  return out;
}

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
  const rows = quantizeRows(x, activations);
  const out = runBytes(rows, weight, { add, sums });
  const inputs = add ? [x, add] : [x];
  return track("int8_matmul", out, inputs, (g, needs, earlier) => {
    const packed = weight.asFactor();
    const variant = choosePacked(g.device, packed, m, false);
    const dX = needs[0] ? runPacked(g, packed, false, variant, earlier.take(0)) : null;
    return [dX && viewOf(dX, x.shape), g].slice(0, inputs.length);
  });
}
