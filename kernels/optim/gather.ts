/**
 * Many gradients into one flat buffer, so that the optimizer is one dispatch.
 *
 * @module
 */
import { type Binding, uniform } from "../../core/binding.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import { unroll } from "../linear/unroll.ts";

/** A gradient, and where its elements go. */
export interface FlatPart {
  /** f32 of any shape; its elements in row-major order. */
  readonly grad: Tensor;
  /** The index of its first element in the flat buffer. */
  readonly at: number;
}

/** flat[at + i] = part[i], or += with ACCUMULATE; workgroups along z take one part each. */
function source(count: number): string {
  return `
struct Part { at: u32, size: u32, pad0: u32, pad1: u32 }
struct Params { accumulate: vec4<u32>, parts: array<Part, ${count}> }
@group(0) @binding(0) var<storage, read_write> flat: array<f32>;
@group(0) @binding(1) var<uniform> params: Params;
${unroll(count, (i) => `@group(0) @binding(${i + 2}) var<storage, read> part${i}: array<f32>;`)}

@compute @workgroup_size(64)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let own = params.parts[w.z];
  for (var i = (w.y * n.x + w.x) * 64u + t; i < own.size; i += n.x * n.y * 64u) {
    var value = 0.0;
    switch (w.z) {
      ${unroll(count - 1, (i) => `case ${i}u: { value = part${i}[i]; }`)}
      default: { value = part${count - 1}[i]; }
    }
    if (params.accumulate.x == 1u) {
      value += flat[own.at + i];
    }
    flat[own.at + i] = value;
  }
}
`;
}

const kernels = new Map<number, Kernel>();

/**
 * Copies gradients into their places in `flat`, or adds them to what is there.
 *
 * @param flat f32, the flat buffer
 * @param parts what to copy, and to where; they must not overlap
 * @param accumulate whether to add
 */
export function gather(flat: Tensor, parts: readonly FlatPart[], accumulate: boolean): void {
  const { device } = flat;
  // The flat buffer takes one of the bindings; a few dozen are enough to make the number of dispatches small.
  const most = Math.min(device.mostBuffers - 1, 24);
  for (let from = 0; from < parts.length; from += most) {
    const group = parts.slice(from, from + most);
    let found = kernels.get(group.length);
    if (!found) kernels.set(group.length, found = kernel("gather", source(group.length)));
    const largest = Math.max(...group.map(({ grad }) => grad.size));
    const words = group.flatMap(({ grad, at }) => [at, grad.size, 0, 0]);
    const bindings: Binding[] = [flat, uniform(accumulate ? 1 : 0, 0, 0, 0, ...words)];
    for (const { grad } of group) bindings.push(grad);
    device.dispatch(found, bindings, [
      Math.min(Math.ceil(largest / 64), 1024),
      1,
      group.length,
    ]);
  }
}
