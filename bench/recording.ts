/**
 * Work that is recorded once and encoded many times, with memory that can be given back.
 *
 * @module
 */
import { Recorder } from "../core/capture.ts";
import { type Command, encode, markWrites } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { planMemory } from "../core/plan.ts";
import { inOrder } from "../core/schedule.ts";
import type { Block } from "../core/pool.ts";

/** Work that can be encoded many times. */
export interface Recording {
  /** The work. */
  readonly commands: readonly Command[];
  /** Gives its temporary memory back. */
  release(): void;
}

type Entry = Recorder["entries"][number];

function storagesOf(entry: Entry) {
  if (entry.kind === "clear") return [entry.target];
  if (entry.kind === "copy") return [entry.from, entry.to];
  return entry.bindings.filter((binding) => binding.kind !== "uniform");
}

/** Records what `body` queues. Its tensors share memory as they do in `capture`, but here the memory can be given back. */
export function record(device: Device, body: () => void): Recording {
  const recorder = new Recorder();
  device.recorder = recorder;
  try {
    body();
  } finally {
    device.recorder = null;
  }
  const planned = new Set<Block>();
  const before = new Set<Block | null>();
  for (const entry of recorder.entries) {
    for (const { storage } of storagesOf(entry)) before.add(storage.block);
  }
  planMemory(inOrder(recorder.entries), new Set(), device.pool);
  for (const entry of recorder.entries) {
    for (const { storage } of storagesOf(entry)) {
      if (storage.block && !before.has(storage.block)) planned.add(storage.block);
    }
  }
  return {
    commands: recorder.entries.flatMap((entry) => device.resolve(entry)),
    release: () => planned.forEach((block) => device.pool.release(block)),
  };
}

/** Encodes recorded work once more. */
export function encodeRecorded(encoder: GPUCommandEncoder, { commands }: Recording): void {
  encode(encoder, commands.filter(markWrites));
}
