/**
 * Attention of new tokens over a key/value cache that they join.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { attention } from "./attention.ts";
import { cacheAppend } from "./cache_append.ts";
import { attendByDecoding, kernelLimits, planDecode } from "./decode.ts";
import { lengthsOf } from "./operands.ts";
import { rope } from "./rope.ts";
import { type AppendTarget, checkAppend, ROPE_APPEND_BUFFERS, ropeAppend } from "./rope_append.ts";

/**
 * Appends k and v to the cache, turned by `rope` where there is a table, and attends to all that is filled then. For one token
 * of each sequence a GPU needs two dispatches, and else a few: when a model decodes, each waits for the one before.
 *
 * @param q f32 [batch, length, heads, D], not turned yet
 * @param k f32 [batch, length, kvHeads, D], as q
 * @param v f32, as k
 * @param positions i32 [batch, length]; see `attention`
 * @param cache what is written, in place; slots must be left for the new tokens
 * @param table f32 [positions, D] (see `ropeTable`); without it nothing is turned
 * @returns f32 of q's shape; no gradient flows
 * @throws {RangeError} if shapes do not fit
 */
export function cachedAttention(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  cache: AppendTarget,
  table?: Tensor,
): Tensor {
  checkAppend(q, k, v, positions, cache, table);
  const { keys, values, past } = cache;
  const operands = { q, k: keys, v: values, positions, past };
  const { device } = q;
  if (device.adapter.type === "gpu") {
    const plan = planDecode(lengthsOf(operands), kernelLimits(device), table ? "rope" : "append");
    if (plan) return attendByDecoding(operands, plan, { k, v, table });
  }
  if (table && kernelLimits(device).buffers >= ROPE_APPEND_BUFFERS) {
    return attention(ropeAppend(q, k, v, positions, table, cache), keys, values, positions, {
      past,
    });
  }
  const turned = (t: Tensor) => table ? rope(t, positions, table) : t;
  cacheAppend(keys, turned(k), past);
  cacheAppend(values, v, past);
  return attention(turned(q), keys, values, positions, { past });
}
