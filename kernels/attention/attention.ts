/**
 * Causal attention with grouped queries.
 *
 * @module
 */
import { kept, track } from "../../core/autograd.ts";
import { checkDType, checkIsShape, checkRank, showShape } from "../../core/shape.ts";
import type { Tensor } from "../../core/tensor.ts";
import { attendByDecoding, type DecodePlan, kernelLimits, planDecode } from "./decode.ts";
import { lengthsOf, type Operands } from "./operands.ts";
import { attendByTiles, backwardByTiles, chooseTiles, type Tiles } from "./tiles.ts";
import { attendByWalks, backwardByWalks } from "./walks.ts";

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
  const operands = { q, k, v, positions, past: options.past };
  return runAttention(operands, chooseVariant(operands));
}

/** Which kernels attend: tiles, splits of a cache, or walks of one invocation each; tests choose, users do not. */
export type AttentionVariant =
  | { readonly by: "tiles"; readonly tiles: Tiles; readonly subgroups: boolean }
  | { readonly by: "decoding"; readonly plan: DecodePlan }
  | { readonly by: "walks" };

/** Storage buffers of the backward pass's largest kernel. WebGPU promises 8. */
const TILE_BUFFERS = 10;

/** The variant for these operands on their device. */
export function chooseVariant(operands: Operands): AttentionVariant {
  const { device } = operands.q;
  const { adapter } = device;
  if (adapter.type === "software") return { by: "walks" };
  const { subgroups } = adapter;
  const limits = kernelLimits(device);
  const lengths = lengthsOf(operands);
  const plan = operands.past && planDecode(lengths, limits);
  if (plan) return { by: "decoding", plan };
  const tiles = limits.buffers < TILE_BUFFERS
    ? null
    : chooseTiles(lengths, limits.memory, subgroups);
  return tiles ? { by: "tiles", tiles, subgroups } : { by: "walks" };
}

/** Attends with a given variant. */
export function runAttention(operands: Operands, variant: AttentionVariant): Tensor {
  const { q, k, v, past } = operands;
  // With a cache no gradient flows.
  if (variant.by === "decoding") return attendByDecoding(operands, variant.plan);
  const attended = variant.by === "tiles"
    ? attendByTiles(operands, variant.tiles, variant.subgroups)
    : attendByWalks(operands);
  if (past) return attended.out;
  return track(
    "attention",
    attended.out,
    [q, k, v],
    (g) => {
      const own = { ...operands, q: kept(q), k: kept(k), v: kept(v) };
      const before = { ...attended, out: kept(attended.out) };
      return variant.by === "tiles"
        ? backwardByTiles(own, before, g, variant.tiles)
        : backwardByWalks(own, before, g);
    },
    [q, k, v, attended.out],
  );
}
