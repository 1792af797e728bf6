/**
 * How products with 4-bit weights are computed: what `packedMatmul` needs to know of them.
 *
 * @module
 */
import { texels, uniform } from "../../core/binding.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import { TEXEL_WGSL } from "../../core/texels.ts";
import { decoderOf } from "../quant/four_bit_decode.ts";
import type { FourBitTensor } from "../quant/four_bit.ts";
import { rowGrid } from "../rows.ts";
import code from "./four_bit_texels.wgsl" with { type: "text" };
import type { PackedWeight } from "./packed_matmul.ts";
import { fourBitFormat } from "./weight_format.ts";

/** So many rows of x at most go through the kernel for software Vulkan. */
const TEXEL_ROWS = 4;

const kernels = new Map<string, Kernel>();

function texelProduct(x: Tensor, w: FourBitTensor, out: Tensor, add: Tensor | undefined): void {
  const [n, k] = w.shape;
  const decoder = decoderOf(w);
  let found = kernels.get(decoder.kind);
  if (!found) {
    found = kernel("four_bit_texels", TEXEL_WGSL + decoder.wgsl(5) + code);
    kernels.set(decoder.kind, found);
  }
  x.device.dispatch(
    found,
    [
      texels(x),
      texels(w.packed, "u32"),
      out,
      uniform(x.size / k, n, k, w.blockSize, add ? 1 : 0),
      add ?? x,
      ...decoder.bindings,
    ],
    rowGrid(n, { LANES: 1, ROWS: 8 }),
  );
}

/** A 4-bit weight as a factor. */
export function fourBitWeight(w: FourBitTensor): PackedWeight {
  const [, k] = w.shape;
  return {
    weight: w,
    whole: k % 8 === 0,
    streamed: () => fourBitFormat(w, 1),
    tiled: () => {
      // A tile is loaded by many workgroups, and each would look nested scales up again: once for all of them is faster.
      const { weight, scratch } = w.withPlainScales();
      return { format: fourBitFormat(weight, 1), scratch };
    },
    texels: {
      fits: (rows) => rows <= TEXEL_ROWS && k % 32 === 0,
      run: (x, out, add) => texelProduct(x, w, out, add),
    },
  };
}
