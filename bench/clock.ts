/**
 * The GPU's clock, beside each measurement: a GPU that sleeps, or that is too hot, is slow without a word.
 *
 * @module
 */
import type { Device } from "../core/device.ts";
import { kernel } from "../core/kernel.ts";
import { empty } from "../core/tensor.ts";
import probeCode from "./clock_probe.wgsl" with { type: "text" };
import { encodeRecorded, record, type Recording } from "./recording.ts";
import { readTimestamps } from "./timestamps.ts";
import warmUpCode from "./warm_up.wgsl" with { type: "text" };

/** Multiply-adds of the probe, each waiting for the last, and how many of them stand in a row. Two empty passes hide behind so many. */
const LINKS = 262_144;
const UNROLLED = 256;

/** Cycles after which the next multiply-add can begin: four on NVIDIA's GPUs since Volta. On others the figure is a relative one. */
const CYCLES = 4;

/** A GPU idles at a fraction of its clock, and needs so long to wake. */
const WARM_UP_MILLISECONDS = 70;
const MOST_WARM_UPS = 2000;

const warmUpKernel = kernel("warm_up", warmUpCode);

const probeKernel = kernel(
  "clock_probe",
  probeCode.replace("LINKS", "    x = fma(x, 0.999, 0.1);\n".repeat(UNROLLED).trimEnd()),
);

/** Two timestamps for each stretch of work, and their way to the host. */
export class Stopwatch {
  readonly #device: GPUDevice;
  readonly #set: GPUQuerySet;
  readonly #count: number;

  /** For so many stretches. */
  constructor(device: GPUDevice, stretches: number) {
    this.#device = device;
    this.#count = 2 * stretches;
    this.#set = device.createQuerySet({ type: "timestamp", count: this.#count });
  }

  /** Encodes a stretch between two timestamps, each taken when everything before it is done. */
  time(encoder: GPUCommandEncoder, stretch: number, encodeWork: () => void): void {
    this.#mark(encoder, 2 * stretch);
    encodeWork();
    this.#mark(encoder, 2 * stretch + 1);
  }

  #mark(encoder: GPUCommandEncoder, index: number): void {
    encoder.beginComputePass({
      timestampWrites: { querySet: this.#set, beginningOfPassWriteIndex: index },
    }).end();
  }

  /** Submits, and gives the length of each stretch in milliseconds. */
  async finish(encoder: GPUCommandEncoder): Promise<number[]> {
    const times = await readTimestamps(this.#device, [this.#set], this.#count, encoder);
    return Array.from({ length: this.#count / 2 }, (_, i) => times[2 * i + 1] - times[2 * i]);
  }
}

/** Records the probe. */
export function recordProbe(device: Device): Recording {
  return record(device, () => device.dispatch(probeKernel, [empty(device, [4])], [1]));
}

/** The clock in MHz, from the milliseconds of the probe. */
export function megahertzOf(milliseconds: number): number {
  return LINKS * CYCLES / milliseconds / 1000;
}

/** Whether a device's clock can be measured: software has none, and the host's clock is too coarse. */
export function hasClock({ adapter }: Device): boolean {
  return adapter.type === "gpu" && adapter.timestamps;
}

/** The clock in MHz now, or null where it cannot be measured. Call it when the device has just worked. */
export async function probeClock(device: Device): Promise<number | null> {
  if (!hasClock(device)) return null;
  const watch = new Stopwatch(device.gpu, 1);
  const encoder = device.gpu.createCommandEncoder();
  const probe = recordProbe(device);
  watch.time(encoder, 0, () => encodeRecorded(encoder, probe));
  probe.release();
  const [milliseconds] = await watch.finish(encoder);
  device.check();
  return megahertzOf(milliseconds);
}

/** Dispatches of the warm-up kernel that keep a device busy for long enough. */
const warmUps = new WeakMap<Device, number>();

/** Encodes work that wakes a GPU. */
export function encodeWarmUp(device: Device, encoder: GPUCommandEncoder, dispatches: number): void {
  if (dispatches === 0) return;
  const recording = record(device, () => {
    const out = empty(device, [4]);
    for (let i = 0; i < dispatches; i++) device.dispatch(warmUpKernel, [out], [2048]);
  });
  encodeRecorded(encoder, recording);
  recording.release();
}

/** How many dispatches of the warm-up a device needs: none on software. */
export async function warmUpOf(device: Device): Promise<number> {
  if (device.adapter.type === "software") return 0;
  let dispatches = warmUps.get(device);
  if (dispatches === undefined) {
    dispatches = 1;
    // The first rounds run at the idle clock, so the number settles only in the last.
    for (let round = 0; round < 4; round++) {
      const start = performance.now();
      const encoder = device.gpu.createCommandEncoder();
      encodeWarmUp(device, encoder, dispatches);
      device.gpu.queue.submit([encoder.finish()]);
      await device.gpu.queue.onSubmittedWorkDone();
      const spent = Math.max(1, performance.now() - start - 10);
      dispatches = Math.min(500, Math.max(1, Math.ceil(dispatches * WARM_UP_MILLISECONDS / spent)));
    }
    warmUps.set(device, dispatches);
  }
  return dispatches;
}

/** Warms up four times as long from now on. */
export async function warmUpLonger(device: Device): Promise<void> {
  warmUps.set(device, Math.min(MOST_WARM_UPS, 4 * await warmUpOf(device)));
}
