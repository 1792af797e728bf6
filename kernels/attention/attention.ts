/**
 * Causal attention with grouped queries.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { constant } from "../../core/constant.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { input, type KernelPair, kernelPair, pick } from "../../core/inputs.ts";
import { checkDType, checkIsShape, checkRank, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { unroll } from "../linear/unroll.ts";
import code from "./attention.wgsl" with { type: "text" };
import keysCode from "./attention_backward_kv.wgsl" with { type: "text" };
import queriesCode from "./attention_backward_q.wgsl" with { type: "text" };

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

/** How `attention` sees its keys. */
export interface AttentionOptions {
  /** i32 [1]: how many slots of the key/value cache were filled before these queries. Without it, 0. */
  readonly past?: Tensor;
}

function checkShapes(q: Tensor, k: Tensor, v: Tensor, positions: Tensor): void {
  for (const [name, t] of [["q", q], ["k", k], ["v", v]] as const) {
    checkRank("attend", t, 4, name);
    checkDType("attend", t, "f32", name);
  }
  const [batch, queries, heads, size] = q.shape;
  const [, keys, kvHeads] = k.shape;
  checkIsShape("attend", k, [batch, -1, -1, size], "k");
  checkIsShape("attend", v, k.shape, "v");
  checkIsShape("attend", positions, [batch, queries], "positions");
  checkDType("attend", positions, "i32", "positions");
  if (heads % kvHeads !== 0) {
    throw new RangeError(
      `Cannot attend with ${heads} query heads over ${kvHeads} key heads: the first must be a multiple of the second`,
    );
  }
  if (size % 4 !== 0 || size > 256) {
    throw new RangeError(
      `Cannot attend with heads of ${size}: the size must be a multiple of 4, at most 256`,
    );
  }
  if (queries > keys) {
    throw new RangeError(
      `Cannot attend with ${queries} queries over ${keys} keys (q ${showShape(q.shape)}, k ${
        showShape(k.shape)
      })`,
    );
  }
}

/**
 * `softmax(q · kᵀ / √D) · v`, where query i sees the keys up to its own slot, back to the beginning of its own sequence. No
 * [length, length] matrix is ever in memory, in neither direction.
 * Vaswani et al. (arXiv 1706.03762); grouped queries: Ainslie et al. (arXiv 2305.13245).
 *
 * @param q f32 [batch, queries, heads, D]; D a multiple of 4
 * @param k f32 [batch, keys, kvHeads, D]; `kvHeads` divides `heads`
 * @param v f32, as k
 * @param positions i32 [batch, queries]: each query's place in its own sequence, which begins that many slots before it. With
 * positions 0 1 2 0 1, a row holds a sequence of 3 tokens and one of 2, and neither sees the other
 * @param options `past`, with a key/value cache; then no gradient flows
 * @returns f32 [batch, queries, heads, D]
 * @throws {RangeError} if shapes do not fit
 *
 * @example
 * ```ts
 * import { attention, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array(2 * 3 * 2 * 4).fill(0.5), [2, 3, 2, 4]);
 * const positions = tensor(device, new Int32Array([0, 1, 2, 0, 1, 2]), [2, 3]);
 * console.log((await attention(x, x, x, positions).read())[0]); // 0.5
 * ```
 */
export function attention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  options: AttentionOptions = {},
): Tensor {
  checkShapes(q, k, v, positions);
  const { device } = q;
  const [batch, queries, heads, size] = q.shape;
  const [, keys, kvHeads] = k.shape;
  const scale = floatBits(1 / Math.sqrt(size));
  const kernels = kernelsFor(size);
  const out = empty(device, q.shape);
  // For each query and head the logarithm of its sum of exponentials; the backward pass puts δ beside it.
  const stats = empty(device, [batch, queries, heads, 2]);
  device.dispatch(
    pick(device, kernels.forward),
    [
      input(q),
      input(k),
      input(v),
      positions,
      options.past ?? constant(device, "no past", () => new Int32Array(1)),
      out,
      stats,
      uniform(batch, queries, keys, heads, kvHeads, scale),
    ],
    gridOf(Math.ceil(batch * queries * heads / 32)),
  );
  if (options.past) return out;
  return track(
    "attention",
    out,
    [q, k, v],
    (g) => backward(device, kernels, { q, k, v, positions, out, stats, g }),
  );
}

interface Saved {
  readonly q: Tensor;
  readonly k: Tensor;
  readonly v: Tensor;
  readonly positions: Tensor;
  readonly out: Tensor;
  readonly stats: Tensor;
  readonly g: Tensor;
}

function backward(device: Device, kernels: HeadKernels, saved: Saved): Tensor[] {
  const { q, k, v, positions, out, stats, g } = saved;
  const [batch, length, heads, size] = q.shape;
  const kvHeads = k.shape[2];
  const params = uniform(batch, length, heads, kvHeads, floatBits(1 / Math.sqrt(size)));
  const dQ = empty(device, q.shape);
  const dK = empty(device, k.shape);
  const dV = empty(device, v.shape);
  device.dispatch(
    pick(device, kernels.queries),
    [input(q), input(k), input(v), input(out), input(g), positions, stats, dQ, params],
    gridOf(Math.ceil(batch * length * heads / 32)),
  );
  device.dispatch(
    pick(device, kernels.keys),
    [input(q), input(k), input(v), input(g), positions, stats, dK, dV, params],
    gridOf(Math.ceil(batch * length * kvHeads / 32)),
  );
  return [dQ, dK, dV];
}
