/**
 * WGSL that reads 4-bit weights: the value of a code, and the scale of a block. Shared by every kernel that takes such weights.
 *
 * @module
 */
import type { Binding } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import type { FourBitTensor } from "./four_bit.ts";
import { type FourBitType, tableOf } from "./tables.ts";

/** The pieces of a kernel over a 4-bit tensor. */
export interface Decoder {
  /** Tells kernels apart: the type, whether scales are nested, the block size, the adapter. */
  readonly kind: string;
  /** Declares `absmax_at(block)`, `code_at(word, shift)` and `prepare_code(t)`, with bindings from the given number on. */
  wgsl(firstBinding: number): string;
  /** The tensors behind those bindings. */
  readonly bindings: readonly Binding[];
}

/**
 * Where a kernel finds the values of codes. "shuffle": every lane of a subgroup of 32 holds one, and the others ask it; all lanes
 * must be active. "memory": a table in workgroup memory. "select": fifteen selects, for software Vulkan, where any table is slow.
 */
export type CodeSource = "shuffle" | "memory" | "select";

/** The fastest source of this device, for kernels whose lanes stay together, or for any kernel. */
export function codeSource({ adapter }: Device, lanes: "together" | "any"): CodeSource {
  if (adapter.type === "software") return "select";
  return adapter.subgroups && lanes === "together" ? "shuffle" : "memory";
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

/**
 * WGSL of `NAME_at(word, shift)`, the value of the code at a bit of a word, and of `prepare_NAME(t)`, which a kernel calls first, in
 * uniform control flow, with its `local_invocation_index`.
 */
export function codesWgsl(name: string, type: FourBitType, source: CodeSource): string {
  const values = Array.from(tableOf(type), literal);
  if (source === "memory") {
    return `
var<workgroup> ${name}_table: array<f32, 16>;
fn prepare_${name}(t: u32) {
  if (t == 0u) {
    ${name}_table = array<f32, 16>(${values.join(", ")});
  }
  workgroupBarrier();
}
fn ${name}_at(word: u32, shift: u32) -> f32 { return ${name}_table[(word >> shift) & 15u]; }`;
  }
  const value = `fn ${name}_value(code: u32) -> f32 { return ${selects(values)}; }`;
  if (source === "select") {
    return `
${value}
fn prepare_${name}(t: u32) {}
fn ${name}_at(word: u32, shift: u32) -> f32 { return ${name}_value(word >> shift); }`;
  }
  // The fifth bit is the neighbouring code's, and chooses between two lanes that hold the same value.
  return `
${value}
var<private> ${name}_own: f32;
fn prepare_${name}(t: u32) { ${name}_own = ${name}_value(t); }
fn ${name}_at(word: u32, shift: u32) -> f32 {
  return subgroupShuffle(${name}_own, (word >> shift) & 31u);
}`;
}

/** WGSL of `NAME_at(block)`, the scale of a block, with bindings from the given number on. */
export function scalesWgsl(name: string, w: FourBitTensor, first: number): string {
  if (w.scales.kind === "plain") {
    return `
@group(0) @binding(${first}) var<storage, read> ${name}_absmax: array<f32>;
fn ${name}_at(block: u32) -> f32 { return ${name}_absmax[block]; }`;
  }
  return `
@group(0) @binding(${first}) var<storage, read> ${name}_codes: array<u32>;
// 256 values, offset, 0, scales of scales
@group(0) @binding(${first + 1}) var<storage, read> ${name}_table: array<f32>;
fn ${name}_at(block: u32) -> f32 {
  let code = (${name}_codes[block / 4u] >> (8u * (block % 4u))) & 255u;
  let product = ${name}_table[code] * ${name}_table[258u + block / 256u];
  // The 0 that the compiler cannot know keeps it from fusing product and sum: both are rounded, as in bitsandbytes.
  let rounded = bitcast<f32>(bitcast<u32>(product) | bitcast<u32>(${name}_table[257]));
  return rounded + ${name}_table[256];
}`;
}

/** The tensors that `scalesWgsl` declares. */
export function scaleBindings({ scales }: FourBitTensor): readonly Binding[] {
  return scales.kind === "nested" ? [scales.codes, scales.table] : [scales.absmax];
}

/** The decoder of a tensor, for kernels whose lanes stay together, or for any kernel. */
export function decoderOf(w: FourBitTensor, lanes: "together" | "any" = "any"): Decoder {
  const source = codeSource(w.device, lanes);
  return {
    kind: [w.type, w.scales.kind, source].join("-"),
    wgsl: (first) => scalesWgsl("absmax", w, first) + codesWgsl("code", w.type, source),
    bindings: scaleBindings(w),
  };
}
