/**
 * Attention on GPUs for a few queries over a cache: sizes and dispatches.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import {
  combineSource,
  decodeBytes,
  decodeLengths,
  type DecodeShape,
  decodeSource,
} from "./decode_source.ts";
import { type Lengths, lengthsOf, noPast, type Operands } from "./operands.ts";

/** How the slots of a cache are divided. */
export interface DecodePlan {
  readonly shape: DecodeShape;
  /** Workgroups for each group of query heads. */
  readonly splits: number;
}

/** More queries than this are better off with tiles. */
const MOST_QUERIES = 4;

/** Most query heads of a workgroup: their products must fit in workgroup memory. */
const MOST_HEADS = 7;

/** So many workgroups fill a GPU; more only leave more to put together. Measured on an H100. */
const FULL = 300;

/** The largest divisor of `n` that is at most `most`. */
function divisor(n: number, most: number): number {
  let found = Math.min(n, most);
  while (n % found !== 0) found--;
  return found;
}

/** Floats of a head's keys up to which one workgroup for each head is faster than several and a dispatch more. Measured on an H100. */
const SHORT = 512 * 64;

/** Storage buffers of the kernel that turns and appends. WebGPU promises 8. */
const APPEND_BUFFERS = 10;

/** What a device allows a kernel. */
export interface KernelLimits {
  /** Bytes of workgroup memory. */
  readonly memory: number;
  /** Invocations. */
  readonly invocations: number;
  /** Storage buffers of a kernel. */
  readonly buffers: number;
}

/** The limits of a device. */
export function kernelLimits({ gpu: { limits } }: Device): KernelLimits {
  return {
    memory: limits.maxComputeWorkgroupStorageSize,
    invocations: limits.maxComputeInvocationsPerWorkgroup,
    buffers: limits.maxStorageBuffersPerShaderStage,
  };
}

/** How to decode these lengths over `keys` slots, or `null` if there are too many queries or too low limits. */
export function planDecode(
  lengths: Lengths,
  limits: KernelLimits,
  before: DecodeShape["before"] = "nothing",
): DecodePlan | null {
  const { batch, queries, keys, heads, kvHeads, size } = lengths;
  if (queries > (before === "nothing" ? MOST_QUERIES : 1)) return null;
  if (before === "rope" && size % 8 !== 0) return null;
  if (before !== "nothing" && limits.buffers < APPEND_BUFFERS) return null;
  if (keys * size <= SHORT && size >= 32 && limits.invocations >= 512) {
    const shape = { size, heads: 1, threads: 512, perThread: 8, split: false, before };
    if (decodeBytes(shape) <= limits.memory) return { shape, splits: 1 };
  }
  const own = divisor(heads / kvHeads, MOST_HEADS);
  // As many loads in flight as registers and workgroup memory allow.
  const perThread = size < 32 ? 1 : own === 1 ? 8 : 4;
  const threads = 128;
  const chunks = Math.ceil(keys / decodeLengths({ size, perThread, threads }).chunk);
  const groups = batch * queries * heads / own;
  const splits = Math.max(1, Math.min(chunks, Math.ceil(FULL / groups)));
  const shape = { size, heads: own, threads, perThread, split: splits > 1, before };
  return decodeBytes(shape) <= limits.memory ? { shape, splits } : null;
}

const kernels = new Map<string, Kernel>();

function kernelOf(label: string, shape: DecodeShape, source: (shape: DecodeShape) => string) {
  const key = [label, ...Object.values(shape)].join();
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel(label, source(shape)));
  return found;
}

/** New tokens' keys and values, and the table of angles, for plans that write to the cache. */
export interface NewTokens {
  readonly k: Tensor;
  readonly v: Tensor;
  readonly table?: Tensor;
}

/** Attends by a plan. */
export function attendByDecoding(
  operands: Operands,
  { shape, splits }: DecodePlan,
  tokens?: NewTokens,
): Tensor {
  const { q, k, v, positions, past } = operands;
  const { device } = q;
  const { batch, queries, keys, heads, kvHeads, size } = lengthsOf(operands);
  const out = empty(device, q.shape);
  const filled = past ?? noPast(device);
  const params = uniform(queries, keys, heads, kvHeads, splits, floatBits(1 / Math.sqrt(size)));
  const decode = kernelOf("attention_decode", shape, decodeSource);
  const grid = [splits, heads / shape.heads, batch * queries] as const;
  const inputs = [q, positions, filled, k, v] as const;
  const fresh = tokens ? [tokens.k, tokens.v, ...tokens.table ? [tokens.table] : []] : [];
  if (!shape.split) {
    device.dispatch(decode, [...inputs, out, params, ...fresh], grid);
    return out;
  }
  const partial = empty(device, [batch * queries, heads, splits, size]);
  const stats = empty(device, [batch * queries, heads, splits, 2]);
  device.dispatch(decode, [...inputs, partial, params, stats, ...fresh], grid);
  device.dispatch(
    kernelOf("attention_combine", { ...shape, heads: 1, before: "nothing" }, combineSource),
    [partial, stats, out, params],
    [heads, 1, batch * queries],
  );
  return out;
}
