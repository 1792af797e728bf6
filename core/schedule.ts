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
const PART = 400;

/**
 * Bytes of what begins and ends in a command buffer, at least, and as a share of what the work takes at most: so much memory is not
 * used again in time, because it would not be fresh.
 */
const PART_BYTES = 64 << 20;
const PART_SHARE = 1 / 8;

/** A storage that an entry uses. */
interface Use {
  readonly storage: Storage;
  readonly written: boolean;
}

function findUses(entry: Entry): Use[] {
  if (entry.kind === "copy") {
    return [
      { storage: entry.from.storage, written: false },
      { storage: entry.to.storage, written: true },
    ];
  }
  if (entry.kind === "clear") return [{ storage: entry.target.storage, written: true }];
  const { accesses } = entry.pipeline.kernel;
  const uses: Use[] = [];
  for (const [index, binding] of entry.bindings.entries()) {
    if (binding.kind === "uniform") continue;
    const written = binding.kind === "buffer" && accesses[index] === "write";
    uses.push({ storage: binding.storage, written });
  }
  return uses;
}

/** Recorded entries do not change, and planning looks at each of them many times. */
const knownUses = new WeakMap<Entry, readonly Use[]>();

/** Every storage of an entry, and whether it is written. */
export function usesOf(entry: Entry): readonly Use[] {
  let uses = knownUses.get(entry);
  if (!uses) knownUses.set(entry, uses = findUses(entry));
  return uses;
}

/** For each entry, those before it that it must come after. */
function dependencies(entries: readonly Entry[]): Set<number>[] {
  const writers = new Map<Storage, number>();
  const readers = new Map<Storage, number[]>();
  return entries.map((entry, index) => {
    const before = new Set<number>();
    const uses = usesOf(entry);
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
  let next = Math.min(window, entries.length);
  let near = Array.from({ length: next }, (_, index) => index);
  while (near.length > 0) {
    let chosen = near.filter((index) =>
      (index === near[0] || writtenBytes(entries[index]) <= LARGE) && before[index].isSubsetOf(done)
    );
    const alone = chosen.find((index) => entries[index].kind !== "dispatch");
    if (alone !== undefined) {
      const others = chosen.filter((index) => entries[index].kind === "dispatch");
      chosen = others.length > 0 ? others : [alone];
    }
    groups.push(chosen.map((index) => entries[index]));
    for (const index of chosen) done.add(index);
    near = near.filter((index) => !done.has(index));
    while (near.length < window && next < entries.length) near.push(next++);
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

/** The most bytes that are in use at a time where entries run in their order. */
function mostBytes(entries: readonly Entry[]): number {
  const last = new Map<Storage, number>();
  entries.forEach((entry, index) => {
    for (const { storage } of usesOf(entry)) if (!storage.block) last.set(storage, index);
  });
  const open = new Set<Storage>();
  let [now, most] = [0, 0];
  entries.forEach((entry, index) => {
    for (const { storage } of usesOf(entry)) {
      if (storage.block || open.has(storage)) continue;
      open.add(storage);
      now += storage.bytes;
    }
    most = Math.max(most, now);
    for (const { storage } of usesOf(entry)) {
      if (last.get(storage) !== index) continue;
      now -= storage.bytes;
      last.delete(storage);
    }
  });
  return most;
}

/** What is known of the command buffer that is being filled. */
class Part {
  /** Its number. */
  index = 0;
  #length = 0;
  /** Bytes of storages that began and ended in it. */
  #spent = 0;
  /** Storages that were written, and not read since. */
  readonly #written = new Set<Storage>();
  readonly #begun = new Set<Storage>();
  /** How many entries still use each storage. */
  readonly #uses = new Map<Storage, number>();
  readonly #entries: ReadonlySet<Entry>;
  readonly #most: number;

  constructor(entries: readonly Entry[]) {
    this.#entries = new Set(entries);
    this.#most = Math.max(PART_BYTES, PART_SHARE * mostBytes(entries));
    for (const entry of entries) {
      for (const { storage } of usesOf(entry)) {
        if (!storage.block) this.#uses.set(storage, (this.#uses.get(storage) ?? 0) + 1);
      }
    }
  }

  /** Begins the next command buffer if this one has no room for so many more entries. */
  makeRoom(entries: number): void {
    if (this.#length === 0) return;
    if (this.#length + entries <= PART && this.#spent <= this.#most) return;
    this.index++;
    [this.#length, this.#spent] = [0, 0];
    this.#written.clear();
    this.#begun.clear();
  }

  add(entry: Entry): void {
    this.#length++;
    for (const { storage, written } of usesOf(entry)) {
      if (written) this.#written.add(storage);
      else this.#written.delete(storage);
      const left = this.#uses.get(storage);
      // A join is not one of the uses that were counted.
      if (left === undefined || !this.#entries.has(entry)) continue;
      if (written) this.#begun.add(storage);
      this.#uses.set(storage, left - 1);
      const isOver = left === 1 && this.#begun.has(storage);
      if (isOver && storage.bytes <= FRESH) this.#spent += storage.bytes;
    }
  }

  /** What the entry reads, and was written since it was last read: a barrier comes before it. */
  waits(entry: Entry): Storage[] {
    const found = usesOf(entry).filter(({ storage, written }) =>
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
    // Its first bytes stand for all of a buffer, which may be larger than a binding.
    const bindings = part.map((storage): Bound => ({
      kind: "buffer",
      storage,
      offset: 0,
      bytes: Math.min(storage.bytes, 256),
    }));
    // A power of two: the few kernels serve every count, and some buffers are bound twice.
    const count = Math.min(2 ** Math.ceil(Math.log2(part.length)), compiler.mostBuffers);
    while (bindings.length < count) bindings.push(bindings[0]);
    const pipeline = compiler.pipeline(joinKernel(count));
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
  const part = new Part(entries);
  const put = (entry: Entry, isFirst: boolean) => {
    const fresh = !isFirst && writtenBytes(entry) <= FRESH;
    found.push({ entry, part: part.index, fresh });
    part.add(entry);
  };
  for (const group of groupEntries(entries)) {
    part.makeRoom(group.length);
    const waits = new Set(group.flatMap((entry) => part.waits(entry)));
    // One that reads all of it can go first, and take the barrier itself.
    const first = group.find((entry) => new Set(part.waits(entry)).size === waits.size);
    const joins = group.length > 1 && !first ? joined([...waits], compiler) : [];
    for (const join of joins) put(join, true);
    const ordered = first ? [first, ...group.filter((entry) => entry !== first)] : group;
    for (const [i, entry] of ordered.entries()) put(entry, i === 0);
  }
  return found;
}
