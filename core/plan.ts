/**
 * Which physical buffer each tensor of a recorded step lies in. Tensors whose lives do not overlap share a buffer, so the exact
 * peak of a step is known before it first runs.
 *
 * @module
 */
import type { Entry } from "./binding.ts";
import { type Block, type Pool, roundBytes, type Storage } from "./pool.ts";
import { type Scheduled, usesOf } from "./schedule.ts";

/** The first and the last entry that use a storage, and the command buffers of both. */
interface Life {
  readonly storage: Storage;
  readonly bytes: number;
  readonly first: number;
  readonly firstPart: number;
  /** Whether the first entry must not wait for what used its buffer before in the same command buffer. */
  readonly fresh: boolean;
  last: number;
  lastPart: number;
}

/** A physical buffer to be, and the lives that share it. */
interface Slot {
  readonly bytes: number;
  readonly lives: Life[];
}

/** A block that a plan took, and the storages that share it. */
export interface PlannedBlock {
  readonly block: Block;
  readonly storages: readonly Storage[];
}

/** Gives a plan's blocks back, last in, first out: a plan of the same step takes the same ones. */
export function releasePlan(blocks: readonly PlannedBlock[], pool: Pool): void {
  for (const { block, storages } of blocks.toReversed()) {
    // Whoever freed a result of the step gave its block back already.
    if (storages.every((storage) => storage.block)) pool.release(block);
    for (const storage of storages) storage.block = null;
  }
}

/**
 * The entries without those whose results nobody uses: what a recomputed block computes last, its own result, is one of them.
 *
 * @param entries the recorded work
 * @param pinned storages that must outlive the recording: its results
 */
export function usedEntries(entries: readonly Entry[], pinned: ReadonlySet<Storage>): Entry[] {
  const used = new Set(pinned);
  const kept = entries.toReversed().filter((entry) => {
    // Memory that has a block already is not the recording's own: someone else may read it.
    const uses = usesOf(entry);
    const isUsed = uses.some(({ storage, written }) =>
      written && (storage.block || used.has(storage))
    );
    for (const { storage } of isUsed ? uses : []) used.add(storage);
    return isUsed;
  });
  return kept.reverse();
}

/** The lives of the storages that have no block yet, in the order of their first use. */
function livesOf(work: readonly Scheduled[], pinned: ReadonlySet<Storage>): Life[] {
  const lives = new Map<Storage, Life>();
  work.forEach(({ entry, part, fresh }, index) => {
    for (const { storage } of usesOf(entry)) {
      if (storage.block) continue;
      const life = lives.get(storage);
      if (life) [life.last, life.lastPart] = [index, part];
      else {
        const bytes = roundBytes(storage.bytes);
        const own = { first: index, last: index, firstPart: part, lastPart: part, fresh };
        lives.set(storage, { storage, bytes, ...own });
      }
    }
  });
  for (const life of lives.values()) if (pinned.has(life.storage)) life.last = Infinity;
  return [...lives.values()];
}

/** Whether `after` can begin in a buffer in which `before` has ended. */
function canFollow(before: Life, after: Life): boolean {
  return before.last < after.first && !(after.fresh && before.lastPart === after.firstPart);
}

/**
 * Gives every storage of a recording a block. Larger storages choose first, each the first buffer that is free during its life:
 * greedy by size, after Pisarchyk and Lee, "Efficient memory management for deep neural net inference" (arXiv 2001.03288).
 *
 * @param work the recorded work in its order; its storages without a block are planned
 * @param pinned storages that must outlive the recording: its results
 * @returns the blocks that were taken from the pool
 */
export function planMemory(
  work: readonly Scheduled[],
  pinned: ReadonlySet<Storage>,
  pool: Pool,
): PlannedBlock[] {
  const lives = livesOf(work, pinned);
  lives.sort((a, b) => b.bytes - a.bytes || a.first - b.first);
  const slots: Slot[] = [];
  for (const life of lives) {
    const free = slots.find((slot) =>
      slot.lives.every((other) => canFollow(other, life) || canFollow(life, other))
    );
    if (free) free.lives.push(life);
    else slots.push({ bytes: life.bytes, lives: [life] });
  }
  return slots.map((slot) => {
    const block = pool.acquire(slot.bytes);
    const storages = slot.lives.map((life) => life.storage);
    for (const storage of storages) storage.block = block;
    return { block, storages };
  });
}
