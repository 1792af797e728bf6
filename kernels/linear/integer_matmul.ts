/**
 * How products with integer weights are computed: what `packedMatmul` needs to know of them.
 *
 * @module
 */
import { texels, uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import { TEXEL_WGSL } from "../../core/texels.ts";
import type { IntegerTensor } from "../quant/integer.ts";
import { rowGrid } from "../rows.ts";
import code from "./integer_texels.wgsl" with { type: "text" };
import type { PackedWeight } from "./packed_matmul.ts";
import { fitsIntegerFormat, integerFormat } from "./weight_format.ts";

/** So many rows of x at most go through the kernel for software Vulkan. */
const TEXEL_ROWS = 4;

/** Codes that the kernel takes at a time: those of a texel, or of three words. */
const TEXEL_UNIT: Readonly<Record<number, number>> = { 8: 16, 4: 32, 3: 32, 2: 64 };

const texelKernel = kernel("integer_texels", TEXEL_WGSL + code);

function texelProduct(x: Tensor, w: IntegerTensor, out: Tensor, add: Tensor | undefined): void {
  const [n, k] = w.shape;
  x.device.dispatch(
    texelKernel,
    [
      texels(x),
      texels(w.packed, "u32"),
      w.scales,
      out,
      uniform(n, k, w.groupSize, w.groups, add ? 1 : 0),
      add ?? x,
    ],
    rowGrid(n, { LANES: 1, ROWS: 8 }),
    { BITS: w.bits, M: x.size / k },
  );
}

/** An integer weight as a factor. Where words cross rows or groups it is decoded for each product. */
export function integerWeight(w: IntegerTensor): PackedWeight {
  return {
    weight: w,
    whole: fitsIntegerFormat(w),
    streamed: (rows) => {
      // Several rows of x in registers leave room for eight weights, not for sixteen.
      const [few, many] = w.bits === 8 ? [4, 8] as const : [8, 16] as const;
      return integerFormat(
        w,
        (w.bits === 8 || rows <= 2) && fitsIntegerFormat(w, many) ? many : few,
      );
    },
    tiled: () => ({ format: integerFormat(w, w.bits === 8 ? 4 : 8) }),
    texels: {
      fits: (rows) => rows <= TEXEL_ROWS && fitsIntegerFormat(w, TEXEL_UNIT[w.bits]),
      run: (x, out, add) => texelProduct(x, w, out, add),
    },
  };
}
