/**
 * Attention with or without a cache, as every architecture does it.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { attention } from "../../kernels/attention/attention.ts";
import { cachedAttention } from "../../kernels/attention/cached_attention.ts";
import { rope } from "../../kernels/attention/rope.ts";
import type { KeyValueCache } from "./language_model.ts";

/** What surrounds attention. */
export interface AttendOptions {
  /** f32 [positions, headSize]: queries and keys are turned by these angles (see `ropeTable`); without it they stay. */
  readonly angles?: Tensor;
  /** i32 [1]: how many slots of the cache are filled. */
  readonly past?: Tensor;
  /** The block's own keys and values: these tokens' are appended, and those before them are seen too. */
  readonly cache?: KeyValueCache["blocks"][number];
}

/**
 * Attention over the keys and values of these tokens, and those in the cache.
 *
 * @param q f32 [batch, length, heads, headSize]
 * @param k f32 [batch, length, kvHeads, headSize]
 * @param v f32, as k
 * @param positions i32 [batch, length]; see `attention`
 * @param options angles, a cache
 * @returns f32 [batch, length, heads, headSize]
 */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  { angles, past, cache }: AttendOptions = {},
): Tensor {
  if (cache && past) return cachedAttention(q, k, v, positions, { ...cache, past }, angles);
  if (!angles) return attention(q, k, v, positions);
  return attention(rope(q, positions, angles), rope(k, positions, angles), v, positions);
}
