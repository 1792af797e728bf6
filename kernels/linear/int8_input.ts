/**
 * How rows come to the kernels of int8_stream.ts: as bytes, or as floats that each workgroup rounds for itself. That is the same work
 * over and over, but while the product is small it is over sooner than a dispatch that others wait for.
 *
 * @module
 */
import { floatBits } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import type { Constants } from "../../core/kernel.ts";
import { rowsAndColumns } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { type HeldRows, holdRows } from "../rows.ts";
import {
  type ActivationScheme,
  checkActivationScheme,
  type QuantizedRows,
  roundingParams,
} from "../quant/quantize_rows.ts";
import { roundRowsCode } from "../quant/round_rows.ts";
import { unroll } from "./unroll.ts";

/** Rows of floats, and how they become bytes. */
export interface FloatRows {
  /** f32 [..., k]. */
  readonly x: Tensor;
  readonly activations: ActivationScheme;
  /** Normalise the rows first. */
  readonly norm?: { readonly gain: Tensor; readonly epsilon: number };
}

/** What a kernel multiplies. */
export type ByteInput = QuantizedRows | FloatRows;

/** What a kernel needs for its input: WGSL has `codes` and `row_scales`, whatever they were made from. */
export interface InputCode {
  /** What tells kernels apart. */
  readonly key: string;
  /** The byte that stands for 0. */
  readonly zero: number;
  /** From binding 0 on. */
  readonly bindings: readonly Tensor[];
  /** Declarations. */
  declare(): string;
  /** Statements before the product, by all of a workgroup. */
  readonly prepare: string;
  /** The last members of the struct of parameters, and their values. */
  readonly members: string;
  readonly params: readonly number[];
  readonly constants?: Constants;
}

/** How a workgroup of `threads` holds rows of so many floats that it rounds, or null where it cannot. */
function holdFloats(
  device: Device,
  k: number,
  threads: number,
  norm: boolean,
): HeldRows | null {
  if (k % 4 !== 0) return null;
  // Norms are summed up in the order in which others do it.
  if (norm) {
    const held = holdRows(device, k);
    return held && held.split.LANES * held.split.ROWS === threads ? held : null;
  }
  const count = Math.ceil(k / 4 / threads);
  return count <= 8 ? { group: 4, count, split: { LANES: threads, ROWS: 1 } } : null;
}

/** Bytes of workgroup memory that rounding takes, beside what sums over a row's lanes do. */
function workgroupBytes(m: number, k: number, threads: number): number {
  return m * k + 4 * m + 12 * threads;
}

/** Whether a workgroup that has so many bytes of workgroup memory left can round rows itself. */
export function fitsFloats({ x, norm }: FloatRows, threads: number, left: number): boolean {
  const [m, k] = rowsAndColumns(x);
  return holdFloats(x.device, k, threads, norm !== undefined) !== null &&
    workgroupBytes(m, k, threads) <= left;
}

const wordType = (words: 1 | 4) => words === 1 ? "u32" : "vec4<u32>";

function bytesInput({ codes, scales, zero }: QuantizedRows, words: 1 | 4): InputCode {
  return {
    key: "bytes",
    zero,
    bindings: [codes, scales],
    declare: () =>
      `@group(0) @binding(0) var<storage, read> codes: array<${wordType(words)}>;
@group(0) @binding(1) var<storage, read> row_scales: array<f32>;`,
    prepare: "",
    members: "",
    params: [],
  };
}

function floatsInput(
  { x, activations, norm }: FloatRows,
  words: 1 | 4,
  threads: number,
): InputCode {
  const [m, k] = rowsAndColumns(x);
  const { count, split } = holdFloats(x.device, k, threads, norm !== undefined)!;
  const place = words === 1 ? "[i]" : "[i / 4u][i % 4u]";
  const floats = [k, norm?.epsilon ?? 0].map(floatBits);
  return {
    key: `${norm ? "normalized" : "floats"} ${count} ${split.ROWS}`,
    zero: checkActivationScheme(activations).zero,
    bindings: norm ? [x, norm.gain] : [x],
    declare: () =>
      `@group(0) @binding(0) var<storage, read> x: array<vec4<f32>>;
${norm ? "@group(0) @binding(1) var<storage, read> gain: array<vec4<f32>>;" : ""}
override CODES: u32 = 1u;
var<workgroup> codes: array<${wordType(words)}, CODES>;
var<workgroup> row_scales: array<f32, ${m}>;
fn put_word(row: u32, at: u32, word: u32) {
  let i = row * params.groups + at;
  codes${place} = word;
}
fn put_scale(row: u32, scale: f32) { row_scales[row] = scale; }
${roundRowsCode(count, norm !== undefined)}`,
    prepare: `${unroll(Math.ceil(m / split.ROWS), (block) => `round_rows(t, ${block}u);`)}
  workgroupBarrier();`,
    members:
      "rows: u32, groups: u32, columns: f32, epsilon: f32, scale: f32, zero: f32, least: f32, not_a_number: u32,",
    params: [m, k / 4, ...floats, ...roundingParams(activations)],
    constants: { ...split, CODES: m * k / 4 / words },
  };
}

/** What a kernel of `threads` invocations that reads words of codes so many at a time needs for its input, which fits. */
export function inputCode(x: ByteInput, words: 1 | 4, threads: number): InputCode {
  return "codes" in x ? bytesInput(x, words) : floatsInput(x, words, threads);
}
