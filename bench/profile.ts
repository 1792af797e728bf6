/**
 * Where a step's time goes: each dispatch in a pass of its own, between two timestamps.
 *
 * @module
 */
import type { Grid, PassObserver } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import type { Pipeline } from "../core/kernel.ts";
import { readTimestamps } from "./timestamps.ts";

/** What the dispatches of one kernel took together. */
export interface KernelShare {
  /** The kernel's label. */
  readonly kernel: string;
  /** How often it ran. */
  readonly dispatches: number;
  /** Milliseconds in all, without the pauses between dispatches. */
  readonly milliseconds: number;
}

/** A profile of some work. */
export interface Profile {
  /** Kernels, the most expensive first. */
  readonly kernels: readonly KernelShare[];
  /** From the first dispatch's beginning to the last one's end: more than the sum by copies and pauses. */
  readonly milliseconds: number;
}

/** Dispatches that a profile holds at most: a query set has 4096 timestamps. */
const MOST_DISPATCHES = 2048;

/**
 * Profiles one submission's worth of work. Passes of their own make each dispatch slower than it is otherwise: shares are worth
 * more than sums.
 *
 * @param device an adapter with timestamps
 * @param body queues the work; at most 512 dispatches for each flush, 2048 in all
 * @throws {Error} if the adapter has no timestamps
 */
export async function profile(device: Device, body: () => void): Promise<Profile> {
  if (!device.adapter.timestamps) {
    throw new Error("Cannot profile: the adapter has no timestamps");
  }
  const { gpu } = device;
  const set = gpu.createQuerySet({ type: "timestamp", count: 2 * MOST_DISPATCHES });
  const labels: string[] = [];
  const observer: PassObserver = {
    begin(pipeline: Pipeline, grid: Grid): GPUComputePassDescriptor {
      if (labels.length >= MOST_DISPATCHES) return {};
      const index = 2 * labels.length;
      labels.push(`${pipeline.gpu.label} ${grid.join("×")}`);
      return {
        timestampWrites: {
          querySet: set,
          beginningOfPassWriteIndex: index,
          endOfPassWriteIndex: index + 1,
        },
      };
    },
    end() {},
  };
  await device.finish();
  device.observer = observer;
  try {
    body();
    device.flush();
  } finally {
    device.observer = null;
  }
  const times = await readTimestamps(gpu, set, 2 * labels.length, gpu.createCommandEncoder());
  device.check();
  const shares = new Map<string, { dispatches: number; milliseconds: number }>();
  for (const [i, label] of labels.entries()) {
    const share = shares.get(label) ?? { dispatches: 0, milliseconds: 0 };
    share.dispatches++;
    share.milliseconds += times[2 * i + 1] - times[2 * i];
    shares.set(label, share);
  }
  return {
    kernels: [...shares].map(([kernel, share]) => ({ kernel, ...share }))
      .sort((a, b) => b.milliseconds - a.milliseconds),
    milliseconds: times[2 * labels.length - 1],
  };
}
