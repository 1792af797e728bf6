/**
 * Products with weights in few bits, which are decoded within the product: tiles for many rows of x, a stream of the weights for
 * few.
 *
 * @module
 */
import { noGrad, track } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "../quant/quantized_tensor.ts";
import { chooseVariant, runProduct } from "./matmul.ts";
import type { Product } from "./product.ts";
import { STREAM_ROWS, streamProduct } from "./stream_product.ts";
import { tileMatmul } from "./tile.ts";
import { packedOperand } from "./tile_packed.ts";
import type { WeightFormat } from "./weight_format.ts";

/** How a product with a weight in few bits is computed; tests and benches choose, users do not. */
export type PackedVariant = "stream" | "texels" | "tiles" | "decode";

/** A quantized weight and the ways to multiply by it without decoding it first. */
export interface PackedWeight {
  readonly weight: QuantizedTensor;
  /** Whether rows, and groups that share a scale, are whole words, so that kernels can decode it on their way. */
  readonly whole: boolean;
  /** How a product with so many rows of x, which are few, reads it. */
  streamed(rows: number): WeightFormat;
  /** How tiles read it, in units of one word, and the memory that this takes; where they can. */
  readonly tiled?: () => { readonly format: WeightFormat; readonly scratch?: Tensor };
  /** Software Vulkan's own kernel for x · Wᵀ, where it has one for so many rows. */
  readonly texels?: {
    fits(rows: number): boolean;
    run(x: Tensor, out: Tensor, add: Tensor | undefined): void;
  };
}

/** The variant for `rows` rows of x; `transposed` is x · Wᵀ, the other is dy · W. */
export function choosePacked(
  device: Device,
  { weight, whole, texels, tiled }: PackedWeight,
  rows: number,
  transposed: boolean,
): PackedVariant {
  if (device.adapter.type === "software") {
    // Decoding once, to a matrix that lives for one product, beats decoding in the loop.
    return transposed && texels?.fits(rows) ? "texels" : "decode";
  }
  if (!whole) return "decode";
  if (transposed && rows <= STREAM_ROWS) return "stream";
  // Tiles store four columns at a time, and take whole words.
  return tiled && weight.shape[0] % 4 === 0 ? "tiles" : "decode";
}

/** Queues x · Wᵀ (`transposed`) or x · W with a given variant. Not tracked. */
export function runPacked(
  x: Tensor,
  packed: PackedWeight,
  transposed: boolean,
  variant: PackedVariant,
  add?: Tensor,
): Tensor {
  const { weight } = packed;
  const [rows, columns] = weight.shape;
  const [n, k] = transposed ? [rows, columns] : [columns, rows];
  const m = x.size / k;
  const { device } = x;
  const out = empty(device, [...x.shape.slice(0, -1), n]);
  if (variant === "texels") {
    packed.texels!.run(x, out, add);
    return out;
  }
  if (variant === "stream") {
    streamProduct({ x, m, formats: [packed.streamed(m)], outs: [out], add });
    return out;
  }
  const product = (b: Tensor): Product => ({
    a: x,
    b,
    add,
    out,
    layout: transposed ? "nt" : "nn",
    m,
    n,
    k,
    batch: 1,
    ownB: false,
    alpha: 1,
  });
  if (variant === "tiles") {
    const { format, scratch } = packed.tiled!();
    tileMatmul(product(out), packedOperand(format), format.bindings);
    if (scratch) device.free(scratch.storage);
    return out;
  }
  const dense = noGrad(() => weight.dequantize());
  runProduct(product(dense), chooseVariant(product(dense)));
  device.free(dense.storage);
  return out;
}

/**
 * `x · Wᵀ (+ add)`. The gradient of x is `dy · W`, and W has none.
 *
 * @param x f32 [..., columns]
 * @param packed the weight [rows, columns]
 * @param options what is added
 * @returns f32 [..., rows]
 * @throws {RangeError} if inner sizes differ
 */
export function packedMatmul(
  x: Tensor,
  packed: PackedWeight,
  options: QuantizedProductOptions = {},
): Tensor {
  checkDType("multiply", x, "f32", "x");
  const { add } = options;
  const { weight } = packed;
  const [rows, columns] = weight.shape;
  const [m, inner] = rowsAndColumns(x);
  if (inner !== columns) {
    throw new RangeError(
      `Cannot multiply ${showShape(x.shape)} by ${weight.scheme} ${
        showShape(weight.shape)
      }ᵀ: inner sizes are ${inner} and ${columns}`,
    );
  }
  if (add) checkIsShape("add to a product", add, [...x.shape.slice(0, -1), rows], "add");
  const run = (a: Tensor, transposed: boolean, added?: Tensor) =>
    runPacked(a, packed, transposed, choosePacked(a.device, packed, m, transposed), added);
  const inputs = add ? [x, add] : [x];
  return track(
    "packed_matmul",
    run(x, true, add),
    inputs,
    (g, needs, earlier) =>
      [needs[0] ? run(g, false, earlier.take(0)) : null, g].slice(0, inputs.length),
  );
}
