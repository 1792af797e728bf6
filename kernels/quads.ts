/**
 * Kernels that walk their elements in groups of four, with a second form for sizes that four does not divide.
 *
 * @module
 */
import type { Binding } from "../core/binding.ts";
import type { Grid } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { input, type KernelPair, kernelPair, pick } from "../core/inputs.ts";
import { type Kernel, kernel } from "../core/kernel.ts";
import type { Tensor } from "../core/tensor.ts";

/** What WGSL that works on `V` may use: how many elements a group has, folds over them, one of them. */
const QUAD_WGSL = `
const GROUP = 4u;
fn total(v: vec4<f32>) -> f32 { return v.x + v.y + v.z + v.w; }
fn largest(v: vec4<f32>) -> f32 { return max(max(v.x, v.y), max(v.z, v.w)); }
fn element(v: vec4<f32>, i: u32) -> f32 { return v[i]; }
// 1 at element i of the group, if it has one: i − 4 · group wraps around below.
fn one_at(i: u32) -> vec4<f32> {
  return select(vec4<f32>(), vec4<f32>(1.0), vec4<u32>(0u, 1u, 2u, 3u) == vec4<u32>(i));
}
`;
const ONE_WGSL = `
const GROUP = 1u;
fn total(v: f32) -> f32 { return v; }
fn largest(v: f32) -> f32 { return v; }
fn element(v: f32, i: u32) -> f32 { return v; }
fn one_at(i: u32) -> f32 { return select(0.0, 1.0, i == 0u); }
`;

/** WGSL for groups of four elements, or for single ones: V replaced by the group's type, and functions on groups before it. */
export function groupCode(group: 4 | 1, code: string): string {
  const [head, type] = group === 4 ? [QUAD_WGSL, "vec4<f32>"] : [ONE_WGSL, "f32"];
  return head + code.replaceAll(/\bV\b/g, type);
}

/**
 * WGSL with its `#{…}#` repeated `count` times, `#` in them replaced by 0, 1, …: unrolled loops, whose variables stay in
 * registers.
 */
export function unrolled(code: string, count: number): string {
  return code.replaceAll(
    /#\{(.*?)\}#/gs,
    (_, body: string) =>
      Array.from({ length: count }, (_, i) => body.replaceAll("#", String(i))).join(" "),
  );
}

/** A kernel over groups of four elements, and the same over single ones. */
export interface QuadKernels {
  readonly quads: KernelPair;
  readonly ones: Kernel;
}

/** WGSL that a kernel begins with, where it differs between adapters. */
export interface Preamble {
  readonly gpu: string;
  readonly software: string;
}

/**
 * Declares a kernel whose WGSL works on `V`, four floats or one: it reads input `x` by `x_at(i)`, group `i`, and counts lengths
 * in groups.
 *
 * @param label what profiles and errors call it
 * @param inputs the names of bindings 0, 1, …, which `x_at` reads; the kernel's own bindings follow
 * @param code the rest of the WGSL
 * @param preamble what it begins with; single elements take the GPU's
 */
export function quadKernels(
  label: string,
  inputs: readonly string[],
  code: string,
  preamble: Preamble = { gpu: "", software: "" },
): QuadKernels {
  const ones = inputs.map((name, binding) =>
    `@group(0) @binding(${binding}) var<storage, read> ${name}: array<f32>;
fn ${name}_at(i: u32) -> f32 { return ${name}[i]; }\n`
  ).join("");
  return {
    quads: {
      gpu: kernelPair(label, inputs, preamble.gpu + groupCode(4, code)).gpu,
      software: kernelPair(label, inputs, preamble.software + groupCode(4, code)).software,
    },
    ones: kernel(label, preamble.gpu + ones + groupCode(1, code)),
  };
}

/** A form of a kernel: groups of how many elements, which kernel, and its inputs as that kernel binds them. */
export interface QuadChoice {
  readonly group: 4 | 1;
  readonly kernel: Kernel;
  bind(t: Tensor): Binding;
}

/** WebGPU's limit on each dimension of a grid. */
const MOST_GROUPS = 65_535;

/** Workgroups of LANES invocations along a row and ROWS rows, and a grid with rows along y. Kernels walk on where it is cut. */
export function rowsGrid(
  rows: number,
  length: number,
  threads: number,
): { grid: Grid; LANES: number; ROWS: number } {
  let LANES = 1;
  while (LANES < threads && LANES < length) LANES *= 2;
  const ROWS = threads / LANES;
  const cut = (groups: number) => Math.min(Math.ceil(groups), MOST_GROUPS);
  const grid = [cut(length / LANES), cut(rows / ROWS)] as const;
  return { grid, LANES, ROWS };
}

/** Kernels by what their source depends on, each made once. */
export class KernelMemo<K extends readonly (string | number)[]> {
  readonly #make: (...key: K) => Kernel;
  readonly #made = new Map<string, Kernel>();

  /** Takes what makes a kernel from its key. */
  constructor(make: (...key: K) => Kernel) {
    this.#make = make;
  }

  /** The kernel of this key. */
  get(...key: K): Kernel {
    const name = key.join();
    let found = this.#made.get(name);
    if (!found) this.#made.set(name, found = this.#make(...key));
    return found;
  }
}

/** The form for rows of this many elements. */
export function pickQuads(device: Device, kernels: QuadKernels, length: number): QuadChoice {
  return length % 4 === 0
    ? { group: 4, kernel: pick(device, kernels.quads), bind: (t) => input(t) }
    : { group: 1, kernel: kernels.ones, bind: (t) => t };
}
