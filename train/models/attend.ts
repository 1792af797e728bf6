/**
 * Attention with or without a cache, as every architecture does it.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { attention } from "../../kernels/attention/attention.ts";
import { cacheAppend } from "../../kernels/attention/cache_append.ts";
import type { KeyValueCache } from "./language_model.ts";

/**
 * Attention over the keys and values of these tokens; with a cache they are appended to it, and those before them are seen too.
 *
 * @param q f32 [batch, length, heads, headSize]
 * @param k f32 [batch, length, kvHeads, headSize]
 * @param v f32, as k
 * @param positions i32 [batch, length]; see `attention`
 * @param past i32 [1]: how many slots of the cache are filled
 * @param cache the block's own keys and values
 * @returns f32 [batch, length, heads, headSize]
 */
export function attend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  past?: Tensor,
  cache?: KeyValueCache["blocks"][number],
): Tensor {
  if (!cache || !past) return attention(q, k, v, positions, { past });
  cacheAppend(cache.keys, k, past);
  cacheAppend(cache.values, v, past);
  return attention(q, cache.keys, cache.values, positions, { past });
}
