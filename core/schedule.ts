/**
 * In which order recorded work runs. WebGPU puts a barrier before a dispatch wherever one of its buffers changes between being read
 * and being written within a command buffer, and a barrier waits for everything before it. So work that does not depend on each
 * other is put side by side, one dispatch that only reads what all of it reads takes the barrier for all, and outputs go to buffers
 * that this command buffer has not used. Then a GPU runs such work at the same time, which small products need to fill it.
 *
 * @module
 */
import type { Bound, Entry } from "./binding.ts";
import { type Kernel, kernel, type Pipeline } from "./kernel.ts";
import type { Storage } from "./pool.ts";

/** Work in the order in which it runs. */
export interface Scheduled {
  readonly entry: Entry;
  /** Which command buffer it goes to, counted from 0. */
  readonly part: number;
  /** Whether what it writes must lie in buffers that its command buffer has not used before, so that it need not wait. */
  readonly fresh: boolean;
}

/** So many entries are looked through for work that can run side by side: more would keep more in memory at a time. */
const WINDOW = 20;

/** What writes more bytes waits for its turn: it fills a GPU alone, and memory for two of it would be much. */
const LARGE = 32 << 20;

/** What writes more bytes may wait for what used its buffer before: one more buffer of that size is worth more than a short wait. */
const FRESH = 8 << 20;

/** Entries of a command buffer: each one costs the host some 130 µs. */
const PART = 160;

/** Bytes that may be written to buffers which their command buffer has not used before: so much memory is not reused in time. */
const PART_BYTES = 64 << 20;

/** Every storage of an entry, and whether it is written. */
export function* usesOf(entry: Entry): Generator<{ storage: Storage; written: boolean }> {
  if (entry.kind === "copy") {
    yield { storage: entry.from.storage, written: false };
    yield { storage: entry.to.storage, written: true };
  } else if (entry.kind === "clear") {
    yield { storage: entry.target.storage, written: true };
  } else {
    const { accesses } = entry.pipeline.kernel;
    for (const [index, binding] of entry.bindings.entries()) {
      if (binding.kind === "uniform") continue;
      const written = binding.kind === "buffer" && accesses[index] === "write";
      yield { storage: binding.storage, written };
    }
  }
}

/** For each entry, those before it that it must come after. */
function dependencies(entries: readonly Entry[]): Set<number>[] {
  const writers = new Map<Storage, number>();
  const readers = new Map<Storage, number[]>();
  return entries.map((entry, index) => {
    const before = new Set<number>();
    const uses = [...usesOf(entry)];
    for (const { storage, written } of uses) {
      const writer = writers.get(storage);
      if (writer !== undefined) before.add(writer);
      if (written) { for (const reader of readers.get(storage) ?? []) before.add(reader); }
    }
    for (const { storage, written } of uses) {
      if (written) {
        writers.set(storage, index);
        readers.set(storage, []);
      } else {
        const list = readers.get(storage);
        if (list) list.push(index);
        else readers.set(storage, [index]);
      }
    }
    before.delete(index);
    return before;
  });
}

/** The bytes of what an entry writes; what has a block already takes no memory of its own. */
function writtenBytes(entry: Entry): number {
  let bytes = 0;
  for (const { storage, written } of usesOf(entry)) {
    if (written && !storage.block) bytes += storage.bytes;
  }
  return bytes;
}

/** Entries that depend on earlier groups alone, group by group. Copies come alone: they end the compute pass. */
export function groupEntries(entries: readonly Entry[], window: number = WINDOW): Entry[][] {
  const before = dependencies(entries);
  const done = new Set<number>();
  const groups: Entry[][] = [];
  let left = entries.map((_, index) => index);
  while (left.length > 0) {
    const near = left.slice(0, window);
    let chosen = near.filter((index) =>
      (index === left[0] || writtenBytes(entries[index]) <= LARGE) &&
      [...before[index]].every((other) => done.has(other))
    );
    const alone = chosen.find((index) => entries[index].kind !== "dispatch");
    if (alone !== undefined) {
      const others = chosen.filter((index) => entries[index].kind === "dispatch");
      chosen = others.length > 0 ? others : [alone];
    }
    groups.push(chosen.map((index) => entries[index]));
    for (const index of chosen) done.add(index);
    left = left.filter((index) => !done.has(index));
  }
  return groups;
}

const joins: Kernel[] = [];

/** A kernel that reads so many buffers, and does nothing. */
function joinKernel(count: number): Kernel {
  const each = (line: (i: number) => string) => Array.from({ length: count }, (_, i) => line(i));
  return joins[count] ??= kernel(
    "join",
    each((i) => `@group(0) @binding(${i}) var<storage, read> b${i}: array<u32>;`).join("\n") +
      `\n@compute @workgroup_size(1)\nfn main() {\n${each((i) => `_ = b${i}[0];`).join("\n")}\n}\n`,
  );
}

/** Whether storages are being read or written in the command buffer so far. */
class States {
  readonly #written = new Set<Storage>();

  clear(): void {
    this.#written.clear();
  }

  note(entry: Entry): void {
    for (const { storage, written } of usesOf(entry)) {
      if (written) this.#written.add(storage);
      else this.#written.delete(storage);
    }
  }

  /** What the entry reads, and was written since it was last read: a barrier comes before it. */
  waits(entry: Entry): Storage[] {
    const found = [...usesOf(entry)].filter(({ storage, written }) =>
      !written && this.#written.has(storage)
    );
    return found.map(({ storage }) => storage);
  }
}

/** Compiles kernels, and says how many buffers one may read. */
export interface Compiler {
  readonly mostBuffers: number;
  pipeline(kernel: Kernel): Pipeline;
}

/** Dispatches that take the barrier of these storages. */
function* joined(storages: readonly Storage[], compiler: Compiler): Generator<Entry> {
  for (let from = 0; from < storages.length; from += compiler.mostBuffers) {
    const part = storages.slice(from, from + compiler.mostBuffers);
    const bindings = part.map((storage): Bound => ({
      kind: "buffer",
      storage,
      offset: 0,
      bytes: storage.bytes,
    }));
    const pipeline = compiler.pipeline(joinKernel(part.length));
    yield { kind: "dispatch", pipeline, bindings, grid: [1], flops: 0 };
  }
}

/** Work as it was recorded, for adapters that run one dispatch after the other. */
export function inOrder(entries: readonly Entry[]): Scheduled[] {
  return entries.map((entry) => ({ entry, part: 0, fresh: false }));
}

/**
 * Puts recorded work in an order in which independent work runs side by side.
 *
 * @param entries the work, in any order that is right
 * @param compiler of the device
 * @returns the same work and some dispatches that only wait, in an order that is right too
 */
export function schedule(entries: readonly Entry[], compiler: Compiler): Scheduled[] {
  const found: Scheduled[] = [];
  const states = new States();
  let [part, length, bytes] = [0, 0, 0];
  const put = (entry: Entry, isFirst: boolean) => {
    const own = writtenBytes(entry);
    const fresh = !isFirst && own <= FRESH;
    found.push({ entry, part, fresh });
    states.note(entry);
    length++;
    if (fresh) bytes += own;
  };
  for (const group of groupEntries(entries)) {
    if (length > 0 && (length + group.length > PART || bytes > PART_BYTES)) {
      [part, length, bytes] = [part + 1, 0, 0];
      states.clear();
    }
    const waits = new Set(group.flatMap((entry) => states.waits(entry)));
    // One that reads all of it can go first, and take the barrier itself.
    const first = group.find((entry) => new Set(states.waits(entry)).size === waits.size);
    if (group.length > 1 && !first) {
      for (const join of joined([...waits], compiler)) put(join, true);
    }
    const ordered = first ? [first, ...group.filter((entry) => entry !== first)] : group;
    for (const [i, entry] of ordered.entries()) put(entry, i === 0);
  }
  return found;
}
