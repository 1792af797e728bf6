/**
 * What attention's variants take and give.
 *
 * @module
 */
import { constant } from "../../core/constant.ts";
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";

/** Attention's operands. */
export interface Operands {
  /** f32 [batch, queries, heads, D]. */
  readonly q: Tensor;
  /** f32 [batch, keys, kvHeads, D]. */
  readonly k: Tensor;
  /** As k. */
  readonly v: Tensor;
  /** i32 [batch, queries]. */
  readonly positions: Tensor;
  /** i32 [1]. */
  readonly past?: Tensor;
}

/** What the forward pass leaves for the backward pass. */
export interface Attended {
  /** The result. */
  readonly out: Tensor;
  /** Logarithms of the sums of exponentials, in the variant's own form. */
  readonly logSums: Tensor;
}

/** Lengths of operands. */
export interface Lengths {
  readonly batch: number;
  readonly queries: number;
  readonly keys: number;
  readonly heads: number;
  readonly kvHeads: number;
  readonly size: number;
}

/** The lengths of operands. */
export function lengthsOf({ q, k }: Operands): Lengths {
  const [batch, queries, heads, size] = q.shape;
  const [, keys, kvHeads] = k.shape;
  return { batch, queries, keys, heads, kvHeads, size };
}

/** The filled slots where there is no cache. */
export function noPast(device: Device): Tensor {
  return constant(device, "no past", () => new Int32Array(1));
}

/**
 * Floating-point operations of the forward pass, for profiles: half of the square, as if one sequence filled each row. Not counted
 * over a cache, where the device alone knows how many keys there are.
 */
export function forwardFlops(operands: Operands): number {
  const { batch, queries, keys, heads, size } = lengthsOf(operands);
  return operands.past ? 0 : 2 * batch * heads * queries * keys * size;
}
