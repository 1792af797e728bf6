/**
 * Where a step's time goes: each dispatch in a pass of its own, between two timestamps.
 *
 * @module
 */
import type { DispatchCommand, Grid, PassObserver } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { readTimestamps } from "./timestamps.ts";

/** One dispatch. */
export interface DispatchTime {
  /** The kernel's label. */
  readonly kernel: string;
  /** Its workgroups. */
  readonly grid: Grid;
  /** Bytes of what it was given, each once. */
  readonly bytes: number;
  /** Floating-point operations, or 0 where nobody counts them. */
  readonly flops: number;
  /** When it began, in milliseconds since the first dispatch. */
  readonly begin: number;
  /** How long it took. */
  readonly milliseconds: number;
}

/** What the dispatches of one kernel took together. */
export interface KernelShare {
  /** The kernel's label. */
  readonly kernel: string;
  /** How often it ran. */
  readonly dispatches: number;
  /** Milliseconds in all, without the pauses between dispatches. */
  readonly milliseconds: number;
  /** Billions of floating-point operations per second, where they are counted. */
  readonly gflops?: number;
  /** Billions of bytes per second, of what it was given; not for kernels that read or write only a part of that. */
  readonly gbps?: number;
}

/** A profile of some work. */
export interface Profile {
  /** Kernels, the most expensive first. */
  readonly kernels: readonly KernelShare[];
  /** Every dispatch, in order. */
  readonly dispatches: readonly DispatchTime[];
  /** From the first dispatch's beginning to the last one's end: more than the sum by copies and pauses. */
  readonly milliseconds: number;
}

/** Kernels that look up some rows of what they are given, or write them: their bytes say nothing. */
const PARTIAL = /^(embedding|cache_append|rope_append|slice|advance|sample|attention_decode)/;

/** Timestamps of a query set: WebGPU's limit. */
const SET_SIZE = 4096;

/** Gives every dispatch a pass with two timestamps, in as many query sets as they need. */
class Watch implements PassObserver {
  readonly seen: Omit<DispatchTime, "begin" | "milliseconds">[] = [];
  readonly sets: GPUQuerySet[] = [];
  readonly #gpu: GPUDevice;

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu;
  }

  begin({ pipeline, grid, bytes, flops }: DispatchCommand): GPUComputePassDescriptor {
    const index = 2 * this.seen.length % SET_SIZE;
    if (index === 0) {
      this.sets.push(this.#gpu.createQuerySet({ type: "timestamp", count: SET_SIZE }));
    }
    this.seen.push({ kernel: pipeline.gpu.label, grid, bytes, flops });
    return {
      timestampWrites: {
        querySet: this.sets.at(-1)!,
        beginningOfPassWriteIndex: index,
        endOfPassWriteIndex: index + 1,
      },
    };
  }

  end(): void {}
}

/** The dispatches of each kernel together, the most expensive kernel first. */
export function sharesOf(dispatches: readonly DispatchTime[]): KernelShare[] {
  const sums = new Map<string, { count: number; time: number; bytes: number; flops: number }>();
  for (const { kernel, milliseconds, bytes, flops } of dispatches) {
    const sum = sums.get(kernel) ?? { count: 0, time: 0, bytes: 0, flops: 0 };
    sum.count++;
    sum.time += milliseconds;
    sum.bytes += bytes;
    sum.flops += flops;
    sums.set(kernel, sum);
  }
  return [...sums].map(([kernel, { count, time, bytes, flops }]): KernelShare => ({
    kernel,
    dispatches: count,
    milliseconds: time,
    ...flops > 0 && time > 0 ? { gflops: flops / (time * 1e6) } : {},
    ...time > 0 && !PARTIAL.test(kernel) ? { gbps: bytes / (time * 1e6) } : {},
  })).sort((a, b) => b.milliseconds - a.milliseconds);
}

/**
 * Profiles some work. Passes of their own make each dispatch slower than it is otherwise: shares are worth more than sums.
 *
 * @param device an adapter with timestamps
 * @param body queues the work, and may wait for it
 * @throws {Error} if the adapter has no timestamps
 */
export async function profile(
  device: Device,
  body: () => void | Promise<void>,
): Promise<Profile> {
  if (!device.adapter.timestamps) {
    throw new Error(
      `Cannot profile: the adapter ${device.adapter.name} has no timestamps; leave the profile out`,
    );
  }
  const { gpu } = device;
  await device.finish();
  const watch = new Watch(gpu);
  device.observer = watch;
  try {
    await body();
    device.flush();
  } finally {
    device.observer = null;
  }
  const { seen, sets } = watch;
  if (seen.length === 0) return { kernels: [], dispatches: [], milliseconds: 0 };
  const times = await readTimestamps(gpu, sets, 2 * seen.length, gpu.createCommandEncoder());
  device.check();
  const dispatches = seen.map((own, i): DispatchTime => ({
    ...own,
    begin: times[2 * i],
    milliseconds: times[2 * i + 1] - times[2 * i],
  }));
  return { kernels: sharesOf(dispatches), dispatches, milliseconds: times.at(-1)! };
}
