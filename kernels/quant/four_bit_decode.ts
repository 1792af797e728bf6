/**
 * WGSL that reads 4-bit weights: the value of a code, and the scale of a block. Shared by every kernel that takes such weights.
 *
 * @module
 */
import type { Binding } from "../../core/binding.ts";
import type { FourBitTensor } from "./four_bit.ts";
import { tableOf } from "./tables.ts";

/** The pieces of a kernel over a 4-bit tensor. */
export interface Decoder {
  /** Tells kernels apart: the type, whether scales are nested, the block size, the adapter. */
  readonly kind: string;
  /** Declares `absmax_at(block)`, `code_value(code)` and `prepare_codes(t)`, with bindings from the given number on. */
  wgsl(firstBinding: number): string;
  /** The tensors behind those bindings. */
  readonly bindings: readonly Binding[];
}

function literal(value: number): string {
  return Object.is(value, -0) ? "-0.0" : Number.isInteger(value) ? value.toFixed(1) : String(value);
}

/** A choice among values by the bits of `code`, the lowest first: fifteen selects of whole vectors, and no memory. */
function selects(values: readonly string[], bit = 0): string {
  if (values.length === 1) return values[0];
  const pairs = Array.from(
    { length: values.length / 2 },
    (_, i) => `select(${values[2 * i]}, ${values[2 * i + 1]}, (code & ${1 << bit}u) != 0u)`,
  );
  return selects(pairs, bit + 1);
}

/** `code_value`: a table in workgroup memory on a GPU; on software Vulkan, where any table is slow, selects. */
function valueWgsl(w: FourBitTensor, software: boolean): string {
  if (software) {
    return `
fn prepare_codes(t: u32) {}
fn code_value(code: u32) -> f32 {
  return ${selects(Array.from(tableOf(w.type), literal))};
}`;
  }
  const values = Array.from(tableOf(w.type), literal).join(", ");
  return `
var<workgroup> code_table: array<f32, 16>;
fn prepare_codes(t: u32) {
  if (t == 0u) {
    code_table = array<f32, 16>(${values});
  }
  workgroupBarrier();
}
fn code_value(code: u32) -> f32 { return code_table[code]; }`;
}

/** The decoder of a tensor. */
export function decoderOf(w: FourBitTensor): Decoder {
  const software = w.device.adapter.type === "software";
  const nested = w.scales.kind === "nested";
  return {
    kind: [w.type, nested ? "nested" : "plain", software ? "software" : "gpu"].join("-"),
    wgsl: (first) =>
      (nested
        ? `
@group(0) @binding(${first}) var<storage, read> scale_codes: array<u32>;
@group(0) @binding(${
          first + 1
        }) var<storage, read> scale_table: array<f32>; // 256 values, offset, 0, scales of scales
fn absmax_at(block: u32) -> f32 {
  let code = (scale_codes[block / 4u] >> (8u * (block % 4u))) & 255u;
  let product = scale_table[code] * scale_table[258u + block / 256u];
  // The 0 that the compiler cannot know keeps it from fusing product and sum: both are rounded, as in bitsandbytes.
  let rounded = bitcast<f32>(bitcast<u32>(product) | bitcast<u32>(scale_table[257]));
  return rounded + scale_table[256];
}`
        : `
@group(0) @binding(${first}) var<storage, read> absmax: array<f32>;
fn absmax_at(block: u32) -> f32 { return absmax[block]; }`) + valueWgsl(w, software),
    bindings: w.scales.kind === "nested" ? [w.scales.codes, w.scales.table] : [w.scales.absmax],
  };
}
