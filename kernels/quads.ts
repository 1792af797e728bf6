/**
 * Kernels that walk their elements in groups of four, with a second form for sizes that four does not divide.
 *
 * @module
 */
import type { Binding } from "../core/binding.ts";
import type { Device } from "../core/device.ts";
import { input, type KernelPair, kernelPair, pick } from "../core/inputs.ts";
import { type Kernel, kernel } from "../core/kernel.ts";
import type { Tensor } from "../core/tensor.ts";

/** `total`, the sum over a group, and the code with V replaced by the type of a group. */
function quadCode(code: string): string {
  return `fn total(v: vec4<f32>) -> f32 { return v.x + v.y + v.z + v.w; }\n` +
    code.replaceAll(/\bV\b/g, "vec4<f32>");
}
function oneCode(code: string): string {
  return `fn total(v: f32) -> f32 { return v; }\n` + code.replaceAll(/\bV\b/g, "f32");
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
      gpu: kernelPair(label, inputs, preamble.gpu + quadCode(code)).gpu,
      software: kernelPair(label, inputs, preamble.software + quadCode(code)).software,
    },
    ones: kernel(label, preamble.gpu + ones + oneCode(code)),
  };
}

/** A form of a kernel: groups of how many elements, which kernel, and its inputs as that kernel binds them. */
export interface QuadChoice {
  readonly group: 4 | 1;
  readonly kernel: Kernel;
  bind(t: Tensor): Binding;
}

/** The form for rows of this many elements. */
export function pickQuads(device: Device, kernels: QuadKernels, length: number): QuadChoice {
  return length % 4 === 0
    ? { group: 4, kernel: pick(device, kernels.quads), bind: (t) => input(t) }
    : { group: 1, kernel: kernels.ones, bind: (t) => t };
}
