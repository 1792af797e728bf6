/**
 * Attention by one invocation for each query, or for each key in the backward pass: for software Vulkan, and for heads that the
 * tiles do not take.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, type KernelPair, kernelPair, pick } from "../../core/inputs.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { unroll } from "../linear/unroll.ts";
import code from "./attention.wgsl" with { type: "text" };
import keysCode from "./attention_backward_kv.wgsl" with { type: "text" };
import queriesCode from "./attention_backward_q.wgsl" with { type: "text" };
import { type Attended, forwardFlops, noPast, type Operands } from "./operands.ts";

/** The kernels for heads of D elements: D is baked in, because each invocation holds a head in registers. */
interface HeadKernels {
  readonly forward: KernelPair;
  readonly queries: KernelPair;
  readonly keys: KernelPair;
}

const byHeadSize = new Map<number, HeadKernels>();

/** The loops over a head's elements, written out. */
function unrollHead(code: string, d4: number): string {
  return code.replaceAll(
    /for \(var d = 0u; d < D4; d\+\+\) \{([^{}]*)\}/g,
    (_, body: string) => unroll(d4, (d) => body.replaceAll(/\bd\b/g, `${d}u`)),
  );
}

/**
 * A kernel pair for heads of `headSize`. The loops over its elements are written out for software Vulkan, whose compiler keeps
 * an array in memory if a loop indexes it; a GPU's compiler does that itself, and chooses better how far.
 */
function headKernels(
  label: string,
  inputs: readonly string[],
  code: string,
  headSize: number,
): KernelPair {
  const d4 = headSize / 4;
  const head = `const D4 = ${d4}u;\n`;
  return {
    gpu: kernelPair(label, inputs, head + code).gpu,
    software: kernelPair(label, inputs, head + unrollHead(code, d4)).software,
  };
}

function kernelsFor(headSize: number): HeadKernels {
  let kernels = byHeadSize.get(headSize);
  if (!kernels) {
    const queriesInputs = ["q", "k", "v", "out", "d_out"];
    kernels = {
      forward: headKernels("attention", ["q", "k", "v"], code, headSize),
      queries: headKernels("attention_backward_q", queriesInputs, queriesCode, headSize),
      keys: headKernels("attention_backward_kv", ["q", "k", "v", "d_out"], keysCode, headSize),
    };
    byHeadSize.set(headSize, kernels);
  }
  return kernels;
}

/** The forward pass. Log sums are [batch, queries, heads, 2]; the backward pass puts δ beside each. */
export function attendByWalks(operands: Operands): Attended {
  const { q, k, v, positions, past } = operands;
  const { device } = q;
  const [batch, queries, heads, size] = q.shape;
  const [, keys, kvHeads] = k.shape;
  const scale = floatBits(1 / Math.sqrt(size));
  const out = empty(device, q.shape);
  const logSums = empty(device, [batch, queries, heads, 2]);
  device.dispatch(
    pick(device, kernelsFor(size).forward),
    [
      input(q),
      input(k),
      input(v),
      positions,
      past ?? noPast(device),
      out,
      logSums,
      uniform(batch, queries, keys, heads, kvHeads, scale),
    ],
    gridOf(Math.ceil(batch * queries * heads / 32)),
    undefined,
    forwardFlops(operands),
  );
  return { out, logSums };
}

/** The backward pass: the gradients of q, k and v, from that of the result. */
export function backwardByWalks(
  operands: Operands,
  { out, logSums }: Attended,
  g: Tensor,
): Tensor[] {
  const { q, k, v, positions } = operands;
  const { device } = q;
  const [batch, length, heads, size] = q.shape;
  const kvHeads = k.shape[2];
  const kernels = kernelsFor(size);
  const params = uniform(batch, length, heads, kvHeads, floatBits(1 / Math.sqrt(size)));
  const dQ = empty(device, q.shape);
  const dK = empty(device, k.shape);
  const dV = empty(device, v.shape);
  device.dispatch(
    pick(device, kernels.queries),
    [input(q), input(k), input(v), input(out), input(g), positions, logSums, dQ, params],
    gridOf(Math.ceil(batch * length * heads / 32)),
    undefined,
    forwardFlops(operands),
  );
  device.dispatch(
    pick(device, kernels.keys),
    [input(q), input(k), input(v), input(g), positions, logSums, dK, dV, params],
    gridOf(Math.ceil(batch * length * kvHeads / 32)),
    undefined,
    // Three of the backward pass's five products.
    1.5 * forwardFlops(operands),
  );
  return [dQ, dK, dV];
}
