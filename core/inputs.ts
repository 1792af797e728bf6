/**
 * Inputs that a kernel loads four floats at a time: storage buffers on a GPU, texels on software Vulkan. A kernel reads input `x`
 * by `x_at(i)`, elements `4 i` to `4 i + 3`, and is compiled in both forms from one source.
 *
 * @module
 */
import { type Binding, texels } from "./binding.ts";
import type { Device } from "./device.ts";
import { type Kernel, kernel } from "./kernel.ts";
import type { Tensor } from "./tensor.ts";
import { TEXEL_WGSL, type TexelKind } from "./texels.ts";

/** An input's name in WGSL, and what its elements are. */
export type InputSpec = readonly [name: string, kind: TexelKind];

function declare([name, kind]: InputSpec, binding: number, software: boolean): string {
  const at = `@group(0) @binding(${binding})`;
  if (software) {
    const read = kind === "f32" ? "texel" : "utexel";
    return `${at} var ${name}: texture_2d<${kind}>;
fn ${name}_at(i: u32) -> vec4<${kind}> { return ${read}(${name}, i); }\n`;
  }
  return `${at} var<storage, read> ${name}: array<vec4<${kind}>>;
fn ${name}_at(i: u32) -> vec4<${kind}> { return ${name}[i]; }\n`;
}

/** A kernel in its two forms. */
export interface KernelPair {
  readonly gpu: Kernel;
  readonly software: Kernel;
}

/**
 * Declares a kernel whose first bindings are loaded four elements at a time.
 *
 * @param label what profiles and errors call it
 * @param inputs the names (and kinds) of bindings 0, 1, …; the kernel's own bindings follow
 * @param code the rest of the WGSL
 */
export function kernelPair(
  label: string,
  inputs: readonly (string | InputSpec)[],
  code: string,
): KernelPair {
  const specs = inputs.map((input): InputSpec =>
    typeof input === "string" ? [input, "f32"] : input
  );
  const head = (software: boolean) =>
    specs.map((spec, binding) => declare(spec, binding, software)).join("");
  return {
    gpu: kernel(label, head(false) + code),
    software: kernel(label, TEXEL_WGSL + head(true) + code),
  };
}

/** The form of a pair that this device runs. */
export function pick(device: Device, pair: KernelPair): Kernel {
  return pair[device.adapter.type];
}

/** A tensor as the binding that `pick`'s kernel wants. */
export function input(t: Tensor, kind: TexelKind = "f32"): Binding {
  return t.device.adapter.type === "software" ? texels(t, kind) : t;
}
