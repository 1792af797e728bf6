/**
 * Products with weights in GGUF's blocks: a matrix-vector product that decodes as it goes for few rows, and for many rows a product
 * with the matrix in 32 bits, which lives as long as that product.
 *
 * @module
 */
import { noGrad, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { input, type KernelPair, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import type { GgufBlockTensor } from "../quant/gguf_block.ts";
import { type GgufBlockType, ggufWgsl } from "../quant/gguf_types.ts";
import type { QuantizedProductOptions } from "../quant/quantized_tensor.ts";
import { rowGrid, ROWS_WGSL, type RowSplit } from "../rows.ts";
import gemvCode from "./gguf_gemv.wgsl" with { type: "text" };
import { matmul } from "./matmul.ts";

/** So many rows of x at most go through the matrix-vector kernel. */
const GEMV_ROWS = 4;

const gemvKernels = new Map<GgufBlockType, KernelPair>();

function gemvKernel(type: GgufBlockType): KernelPair {
  let pair = gemvKernels.get(type);
  if (!pair) {
    const bindings = `
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> d: array<f32>;
fn packed_word(i: u32) -> u32 { return packed[i]; }
`;
    pair = kernelPair("gguf_gemv", ["x"], bindings + ggufWgsl(type) + ROWS_WGSL + gemvCode);
    gemvKernels.set(type, pair);
  }
  return pair;
}

function gemv(x: Tensor, w: GgufBlockTensor, out: Tensor, add?: Tensor): void {
  const [n, k] = w.shape;
  const { device } = x;
  const split: RowSplit = device.adapter.type === "software"
    ? { LANES: 1, ROWS: 8 }
    : { LANES: k >= 1024 ? 32 : 16, ROWS: k >= 1024 ? 4 : 8 };
  device.dispatch(
    pick(device, gemvKernel(w.scheme)),
    [input(x), w.packed, out, uniform(x.size / k, n, k, add ? 1 : 0), add ?? x],
    rowGrid(n, split),
    { ...split },
  );
}

/** x · Wᵀ (`transposed`) or x · W, with W decoded for this product alone. */
function decoded(x: Tensor, w: GgufBlockTensor, transposed: boolean, add?: Tensor): Tensor {
  return noGrad(() => {
    const dense = w.dequantize();
    const out = matmul(x, dense, { transposeB: transposed, add });
    x.device.free(dense.storage);
    return out;
  });
}

/**
 * `x · Wᵀ (+ add)` with W in GGUF's blocks. The gradient of x is `dy · W`, and W has none.
 *
 * @param x f32 [..., columns]
 * @param w the weight [rows, columns]
 * @param options what is added
 * @returns f32 [..., rows]
 * @throws {RangeError} if inner sizes differ
 */
export function ggufMatmul(
  x: Tensor,
  w: GgufBlockTensor,
  options: QuantizedProductOptions = {},
): Tensor {
  checkDType("multiply", x, "f32", "x");
  const { add } = options;
  const [rows, columns] = w.shape;
  const [m, inner] = rowsAndColumns(x);
  if (inner !== columns) {
    throw new RangeError(
      `Cannot multiply ${showShape(x.shape)} by ${w.scheme} ${
        showShape(w.shape)
      }ᵀ: inner sizes are ${inner} and ${columns}`,
    );
  }
  const shape = [...x.shape.slice(0, -1), rows];
  if (add) checkIsShape("add to a product", add, shape, "add");
  let out: Tensor;
  if (m <= GEMV_ROWS) gemv(x, w, out = empty(x.device, shape), add);
  else out = decoded(x, w, true, add);
  const inputs = add ? [x, add] : [x];
  return track(
    "gguf_matmul",
    out,
    inputs,
    (g, needs, earlier) =>
      [needs[0] ? decoded(g, w, false, earlier.take(0)) : null, g].slice(0, inputs.length),
  );
}
