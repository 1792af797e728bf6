/**
 * A model's blocks one after the other, with or without gradient checkpointing.
 *
 * @module
 */
import { checkpoint, isTracking } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";

/** Gradient checkpointing by block: of most blocks only the input is kept, and the backward pass computes the rest again. */
export interface CheckpointingOptions {
  /**
   * So many blocks keep all that they compute, the last ones: 0 by default. The backward pass frees them before it computes the
   * first block again, so that one costs no memory at all.
   */
  readonly keep?: number;
}

/** `true`, or which blocks; `false` keeps everything. */
export type Checkpointing = boolean | CheckpointingOptions;

/** How many blocks of `count` are computed again. Throws a RangeError if `keep` is not a whole number. */
export function recomputedBlocks(count: number, checkpointing: Checkpointing = false): number {
  if (!checkpointing) return 0;
  const { keep = 0 } = checkpointing === true ? {} : checkpointing;
  if (!Number.isSafeInteger(keep) || keep < 0) {
    throw new RangeError(
      `Cannot keep what ${keep} blocks compute: wanted a whole number, at least 0`,
    );
  }
  return Math.max(0, count - keep);
}

/** Applies a block, and frees what it computes on the way; if told, also the state that it began with. */
function applyAlone(state: Tensor, apply: (state: Tensor) => Tensor, last: boolean): Tensor {
  const { device } = state;
  const next = device.scope(() => apply(state));
  if (last && next.storage !== state.storage) device.free(state.storage);
  return next;
}

/**
 * Applies the blocks in their order. Without gradients, what a block computes on the way is freed behind it: a long prompt takes the
 * memory of one block, and not of all.
 */
export function runBlocks<Block>(
  x: Tensor,
  blocks: readonly Block[],
  apply: (block: Block, x: Tensor, index: number) => Tensor,
  checkpointing?: Checkpointing,
): Tensor {
  const recomputed = recomputedBlocks(blocks.length, checkpointing);
  return blocks.reduce((state, block, i) => {
    if (!isTracking()) return applyAlone(state, (own) => apply(block, own, i), i > 0);
    return i < recomputed
      ? checkpoint((own) => apply(block, own, i), [state])
      : apply(block, state, i);
  }, x);
}
