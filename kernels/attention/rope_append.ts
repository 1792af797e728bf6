/**
 * Rotary positions and the key/value cache in one dispatch: what comes between the projections and attention when a model
 * decodes.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { checkDType, checkIsShape, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { pickQuads, quadKernels } from "../quads.ts";
import code from "./rope_append.wgsl" with { type: "text" };

const kernels = quadKernels("rope_append", ["q", "k", "v", "angles"], code);

/** Keys and values of earlier tokens, and how many slots they fill. */
export interface AppendTarget {
  /** f32 [batch, slots, kvHeads, D]. */
  readonly keys: Tensor;
  /** As keys. */
  readonly values: Tensor;
  /** i32 [1]: how many slots are filled. */
  readonly past: Tensor;
}

/** Storage buffers that `ropeAppend`'s kernel binds; WebGPU promises 8. */
export const ROPE_APPEND_BUFFERS = 9;

/** Throws if new tokens do not fit together, or not with the cache. */
export function checkAppend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  cache: AppendTarget,
  table?: Tensor,
): void {
  checkRank("rotate", q, 4, "q");
  checkDType("rotate", positions, "i32", "positions");
  const [batch, length, , size] = q.shape;
  if (table && size % 2 !== 0) {
    throw new RangeError(`Cannot rotate heads of ${size}: the size must be even`);
  }
  checkRank("rotate", k, 4, "k");
  const kvHeads = k.shape[2];
  checkIsShape("rotate", k, [batch, length, kvHeads, size], "k");
  checkIsShape("rotate", v, k.shape, "v");
  checkIsShape("rotate", positions, [batch, length], "positions");
  if (table) checkIsShape("rotate", table, [-1, size], "table");
  checkIsShape("append to the cache", cache.keys, [batch, -1, kvHeads, size], "the cache's keys");
  checkIsShape("append to the cache", cache.values, cache.keys.shape, "the cache's values");
}

/**
 * `rope` of q, and of k into the cache's keys; v goes into its values. What does not fit in the cache is dropped. No gradient
 * flows. Three dispatches in one, for decoding, where each waits for the one before.
 *
 * @param q f32 [batch, length, heads, D]; D even
 * @param k f32 [batch, length, kvHeads, D]
 * @param v f32, as k
 * @param positions i32 [batch, length]
 * @param table f32 [positions, D] (see `ropeTable`)
 * @param cache what is written, in place
 * @returns q, turned
 * @throws {RangeError} if shapes do not fit
 */
export function ropeAppend(
  q: Tensor,
  k: Tensor,
  v: Tensor,
  positions: Tensor,
  table: Tensor,
  cache: AppendTarget,
): Tensor {
  checkAppend(q, k, v, positions, cache, table);
  const [batch, length, heads, size] = q.shape;
  const kvHeads = k.shape[2];
  const half = size / 2;
  const turned = empty(q.device, q.shape);
  const { group, kernel, bind } = pickQuads(q.device, kernels, half);
  const slots = cache.keys.shape[1];
  const params = uniform(batch * length, length, slots, heads, kvHeads, half / group);
  const pairs = batch * length * (heads + 2 * kvHeads) * half / group;
  q.device.dispatch(
    kernel,
    [
      bind(q),
      bind(k),
      bind(v),
      bind(table),
      positions,
      cache.past,
      turned,
      cache.keys,
      cache.values,
      params,
    ],
    gridOf(Math.ceil(pairs / 64)),
  );
  return turned;
}
