/**
 * Products with 4-bit weights: fused tiles for many rows, a matrix-vector product for few.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { input, type KernelPair, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { decoderOf } from "../quant/four_bit_decode.ts";
import type { FourBitTensor } from "../quant/four_bit.ts";
import type { QuantizedProductOptions } from "../quant/quantized_tensor.ts";
import { rowGrid, ROWS_WGSL, type RowSplit } from "../rows.ts";
import gemvCode from "./four_bit_gemv.wgsl" with { type: "text" };
import { chooseVariant, runProduct } from "./matmul.ts";
import type { Product } from "./product.ts";
import { tileMatmul } from "./tile.ts";
import { fourBitOperand } from "./tile_four_bit.ts";

/** So many rows of x at most go through the matrix-vector kernel. */
const GEMV_ROWS = 4;

/** How a product with 4-bit weights is computed; tests and benches choose, users do not. */
export type FourBitVariant = "gemv" | "tiles" | "dequantize";

/** The variant for `rows` rows of x; `transposed` is x · Wᵀ, the other is dy · W. */
export function chooseFourBit(
  device: Device,
  w: FourBitTensor,
  rows: number,
  transposed: boolean,
): FourBitVariant {
  const [n, k] = w.shape;
  if (transposed && rows <= GEMV_ROWS && k % 32 === 0) return "gemv";
  // On software Vulkan decoding once, to a matrix that lives for one product, beats decoding in the loop.
  if (device.adapter.type === "software") return "dequantize";
  return k % 8 === 0 && n % 8 === 0 ? "tiles" : "dequantize";
}

const gemvKernels = new Map<string, KernelPair>();

function gemvKernel(w: FourBitTensor): KernelPair {
  const decoder = decoderOf(w);
  let pair = gemvKernels.get(decoder.kind);
  if (!pair) {
    const bindings = `
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> d: array<f32>;`;
    pair = kernelPair(
      "four_bit_gemv",
      ["x", ["packed", "u32"]],
      bindings + decoder.wgsl(5) + ROWS_WGSL + gemvCode,
    );
    gemvKernels.set(decoder.kind, pair);
  }
  return pair;
}

function gemv(x: Tensor, w: FourBitTensor, add: Tensor | undefined, out: Tensor, m: number): void {
  const [n, k] = w.shape;
  const { device } = x;
  const split: RowSplit = device.adapter.type === "software"
    ? { LANES: 1, ROWS: 8 }
    : { LANES: k >= 1024 ? 32 : 16, ROWS: k >= 1024 ? 4 : 8 };
  device.dispatch(
    pick(device, gemvKernel(w)),
    [
      input(x),
      input(w.packed, "u32"),
      out,
      uniform(m, n, k, w.blockSize, add ? 1 : 0),
      add ?? x,
      ...decoderOf(w).bindings,
    ],
    rowGrid(n, split),
    { ...split },
  );
}

/** Queues x · Wᵀ (`transposed`) or x · W with a given variant. Not tracked. */
export function runFourBit(
  x: Tensor,
  w: FourBitTensor,
  transposed: boolean,
  variant: FourBitVariant,
  add?: Tensor,
): Tensor {
  const [rows, columns] = w.shape;
  const [n, k] = transposed ? [rows, columns] : [columns, rows];
  const m = x.size / k;
  const out = empty(x.device, [...x.shape.slice(0, -1), n]);
  if (variant === "gemv") {
    gemv(x, w, add, out, m);
    return out;
  }
  const layout = transposed ? "nt" : "nn";
  const product: Product = {
    a: x,
    b: variant === "tiles" ? w.packed : w.dequantize(),
    add,
    out,
    layout,
    m,
    n,
    k,
    batch: 1,
    ownB: false,
    alpha: 1,
  };
  if (variant === "tiles") {
    tileMatmul(product, fourBitOperand(w), [w.packed, ...decoderOf(w).bindings]);
  } else {
    runProduct(product, chooseVariant(product));
    x.device.free(product.b.storage);
  }
  return out;
}

/**
 * `x · Wᵀ (+ add)` with a 4-bit W. The gradient of x is `dy · W`, and W has none.
 *
 * @param x f32 [..., columns]
 * @param w the weight [rows, columns]
 * @param options what is added
 * @returns f32 [..., rows]
 */
export function fourBitMatmul(
  x: Tensor,
  w: FourBitTensor,
  options: QuantizedProductOptions = {},
): Tensor {
  checkDType("multiply", x, "f32", "x");
  const { add } = options;
  const [rows, columns] = w.shape;
  const [m, inner] = rowsAndColumns(x);
  if (inner !== columns) {
    throw new RangeError(
      `Cannot multiply ${showShape(x.shape)} by 4-bit ${
        showShape(w.shape)
      }ᵀ: inner sizes are ${inner} and ${columns}`,
    );
  }
  const shape = [...x.shape.slice(0, -1), rows];
  if (add) checkIsShape("add to a product", add, shape, "add");
  const out = runFourBit(x, w, true, chooseFourBit(x.device, w, m, true), add);
  const inputs = add ? [x, add] : [x];
  return track("four_bit_matmul", out, inputs, (g, needs, earlier) =>
    [
      needs[0]
        ? runFourBit(g, w, false, chooseFourBit(g.device, w, m, false), earlier.take(0))
        : null,
      g,
    ].slice(0, inputs.length));
}
