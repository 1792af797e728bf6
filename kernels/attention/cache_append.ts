/**
 * Writing to a key/value cache.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkIsShape, checkRank } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import code from "./cache_append.wgsl" with { type: "text" };

const appendKernel = kernel("cache_append", code);

/**
 * Writes `x` into `cache`, in place, behind the slots that are filled. What does not fit is dropped. No gradient flows.
 *
 * @param cache f32 [batch, slots, heads, D]
 * @param x f32 [batch, count, heads, D]
 * @param past i32 [1]: how many slots are filled
 */
export function cacheAppend(cache: Tensor, x: Tensor, past: Tensor): void {
  checkRank("append to the cache", cache, 4, "the cache");
  const [batch, slots, heads, size] = cache.shape;
  checkIsShape("append to the cache", x, [batch, -1, heads, size], "x");
  const params = uniform(batch, x.shape[1], slots, heads * size);
  cache.device.dispatch(appendKernel, [x, past, cache, params], gridOf(Math.ceil(x.size / 64)));
}
