/** The specification of rope_append.ts: rope of q, and the caches after rope of k and v were appended. */
import { cacheAppendRef } from "./cache_append_ref.ts";
import { ropeRef } from "./rope_ref.ts";

/** Everything that the op gives and writes. */
export function ropeAppendRef(
  inputs: { q: ArrayLike<number>; k: ArrayLike<number>; v: ArrayLike<number> },
  cache: { keys: ArrayLike<number>; values: ArrayLike<number>; past: number },
  positions: ArrayLike<number>,
  dims: {
    batch: number;
    length: number;
    slots: number;
    heads: number;
    kvHeads: number;
    size: number;
    theta: number;
  },
): { q: Float64Array; keys: Float64Array; values: Float64Array } {
  const { batch, length, slots, heads, kvHeads, size, theta } = dims;
  const turn = (x: ArrayLike<number>, count: number) =>
    ropeRef(x, positions, batch * length, count, size, theta);
  const append = (cached: ArrayLike<number>, x: ArrayLike<number>) =>
    cacheAppendRef(cached, x, cache.past, { batch, count: length, slots, width: kvHeads * size });
  return {
    q: turn(inputs.q, heads),
    keys: append(cache.keys, turn(inputs.k, kvHeads)),
    values: append(cache.values, inputs.v),
  };
}
