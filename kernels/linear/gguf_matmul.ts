/**
 * How products with weights in GGUF's blocks are computed: what `packedMatmul` needs to know of them.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { input, type KernelPair, kernelPair, pick } from "../../core/inputs.ts";
import type { Tensor } from "../../core/tensor.ts";
import type { GgufBlockTensor } from "../quant/gguf_block.ts";
import { type GgufBlockType, ggufWgsl } from "../quant/gguf_types.ts";
import { rowGrid, ROWS_WGSL } from "../rows.ts";
import gemvCode from "./gguf_gemv.wgsl" with { type: "text" };
import { ggufFormat } from "./gguf_format.ts";
import type { PackedWeight } from "./packed_matmul.ts";

/** So many rows of x at most go through the kernel for software Vulkan. */
const GEMV_ROWS = 4;

const gemvKernels = new Map<string, KernelPair>();

function gemvKernel(type: GgufBlockType, rows: number): KernelPair {
  const key = `${type} ${rows}`;
  let pair = gemvKernels.get(key);
  if (!pair) {
    const bindings = `
const M = ${rows}u;
@group(0) @binding(1) var<storage, read> packed: array<u32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> params: Params;
@group(0) @binding(4) var<storage, read> d: array<f32>;
fn packed_word(i: u32) -> u32 { return packed[i]; }
`;
    pair = kernelPair("gguf_gemv", ["x"], bindings + ggufWgsl(type) + ROWS_WGSL + gemvCode);
    gemvKernels.set(key, pair);
  }
  return pair;
}

function gemv(x: Tensor, w: GgufBlockTensor, out: Tensor, add: Tensor | undefined): void {
  const [n, k] = w.shape;
  const split = { LANES: 1, ROWS: 8 };
  x.device.dispatch(
    pick(x.device, gemvKernel(w.scheme, x.size / k)),
    [input(x), w.packed, out, uniform(n, k, add ? 1 : 0), add ?? x],
    rowGrid(n, split),
    split,
  );
}

/** A weight in GGUF's blocks as a factor. For many rows of x it is decoded for each product. */
export function ggufWeight(w: GgufBlockTensor): PackedWeight {
  return {
    weight: w,
    whole: true,
    streamed: () => ggufFormat(w),
    texels: { fits: (rows) => rows <= GEMV_ROWS, run: (x, out, add) => gemv(x, w, out, add) },
  };
}
