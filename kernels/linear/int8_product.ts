/**
 * Choosing and running the kernels of products of rows that are bytes already.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import type { IntegerTensor } from "../quant/integer.ts";
import { dequantizeRows, type QuantizedRows } from "../quant/quantize_rows.ts";
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
