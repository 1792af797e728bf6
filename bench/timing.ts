/**
 * How long the device takes for an op, without the host's part: queueing, submitting, waiting.
 *
 * @module
 */
import { Recorder } from "../core/capture.ts";
import { type Command, encode, markWrites } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { kernel } from "../core/kernel.ts";
import { planMemory } from "../core/plan.ts";
import type { Block } from "../core/pool.ts";
import { empty } from "../core/tensor.ts";
import { readTimestamps } from "./timestamps.ts";
import warmUpCode from "./warm_up.wgsl" with { type: "text" };

/** How often an op is timed. */
export interface TimingOptions {
  /** How often it runs in each timed stretch; without it, as often as makes the stretch long enough to measure. */
  readonly repeats?: number;
  /** The repeats cycle through so many sets of inputs: every stretch sees all of them. 1 by default. */
  readonly copies?: number;
}

/** Timed stretches; the fastest counts, since everything that disturbs makes them slower. */
const TRIES = 3;

/** A GPU idles at a fraction of its clock, and needs so long to wake. */
const WARM_UP_MILLISECONDS = 70;

/** How long a timed stretch should be, and how many commands it may have at most. */
const STRETCH_MILLISECONDS = { gpu: 10, software: 50 } as const;
const MOST_COMMANDS = 2000;

const warmUpKernel = kernel("warm_up", warmUpCode);

/** Work that can be encoded many times. */
interface Recording {
  readonly commands: readonly Command[];
  /** Gives its temporary memory back. */
  release(): void;
}

/** Records what `body` queues. Its tensors share memory as they do in `capture`, but here the memory can be given back. */
function record(device: Device, body: () => void): Recording {
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
  planMemory(recorder.entries, new Set(), device.pool);
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

type Entry = Recorder["entries"][number];

function storagesOf(entry: Entry) {
  if (entry.kind === "clear") return [entry.target];
  if (entry.kind === "copy") return [entry.from, entry.to];
  return entry.bindings.filter((binding) => binding.kind !== "uniform");
}

/** Two timestamps for each stretch, and their way to the host. */
class Stopwatch {
  readonly #device: GPUDevice;
  readonly #set: GPUQuerySet;
  readonly #count: number;

  constructor(device: GPUDevice, stretches: number) {
    this.#device = device;
    this.#count = 2 * stretches;
    this.#set = device.createQuerySet({ type: "timestamp", count: this.#count });
  }

  /** Encodes a timestamp, taken when everything before it is done. */
  mark(encoder: GPUCommandEncoder, index: number): void {
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

/** Dispatches of the warm-up kernel that keep a device busy for long enough. */
const warmUps = new WeakMap<Device, number>();

function encodeWarmUp(device: Device, encoder: GPUCommandEncoder, dispatches: number): void {
  if (dispatches === 0) return;
  const recording = record(device, () => {
    const out = empty(device, [4]);
    for (let i = 0; i < dispatches; i++) device.dispatch(warmUpKernel, [out], [2048]);
  });
  encode(encoder, recording.commands);
  recording.release();
}

async function warmUpOf(device: Device): Promise<number> {
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

function encodeStretch(encoder: GPUCommandEncoder, commands: readonly Command[]): void {
  encode(encoder, commands.filter(markWrites));
}

type Prepare = () => (turn: number) => void;

/** One submission: warm-up, then stretches of so many turns, each between timestamps. Milliseconds of each stretch. */
async function stretches(
  device: Device,
  prepare: Prepare,
  turns: number,
  tries: number,
): Promise<{ milliseconds: number[]; commands: number }> {
  const warmUp = await warmUpOf(device);
  const { encoder, watch, commands } = device.scope(() => {
    const queue = prepare();
    const recording = record(device, () => {
      for (let turn = 0; turn < turns; turn++) queue(turn);
    });
    device.flush(); // what `prepare` queued
    const watch = new Stopwatch(device.gpu, tries);
    const encoder = device.gpu.createCommandEncoder();
    encodeWarmUp(device, encoder, warmUp);
    for (let i = 0; i < tries; i++) {
      watch.mark(encoder, 2 * i);
      encodeStretch(encoder, recording.commands);
      watch.mark(encoder, 2 * i + 1);
    }
    recording.release();
    return { encoder, watch, commands: recording.commands.length };
  });
  const milliseconds = await watch.finish(encoder);
  device.check();
  return { milliseconds, commands };
}

/** The same by the host's clock: the difference between one stretch and two in a submission is a stretch, without the waiting. */
async function stretchesByClock(
  device: Device,
  prepare: Prepare,
  turns: number,
  tries: number,
): Promise<{ milliseconds: number[]; commands: number }> {
  const warmUp = await warmUpOf(device);
  const found: number[][] = [[], []];
  let commands = 0;
  for (let i = 0; i < 2 * tries; i++) {
    const encoder = device.scope(() => {
      const queue = prepare();
      const recording = record(device, () => {
        for (let turn = 0; turn < turns; turn++) queue(turn);
      });
      device.flush();
      commands = recording.commands.length;
      const encoder = device.gpu.createCommandEncoder();
      encodeWarmUp(device, encoder, warmUp);
      for (let part = 0; part <= i % 2; part++) encodeStretch(encoder, recording.commands);
      recording.release();
      return { encoder };
    }).encoder;
    await device.finish();
    const start = performance.now();
    device.gpu.queue.submit([encoder.finish()]);
    await device.finish();
    found[i % 2].push(performance.now() - start);
  }
  const least = Math.min(...found[1]) - Math.min(...found[0]);
  return { milliseconds: [Math.max(least, 1e-6)], commands };
}

/**
 * The time that the device takes for an op, in milliseconds. All repeats are in one submission, behind a warm-up, so that neither
 * the host nor a sleeping GPU is measured; each repeat writes where the last one wrote, so that they run one after another.
 * Timestamps on the GPU are used where there are any, and else the host's clock.
 *
 * @param device the device of all tensors
 * @param prepare makes the inputs and returns what queues the op; `turn` counts the repeats, and chooses among copies of the
 * inputs. It is called for every submission, and its tensors are freed after it
 * @param options how often
 * @returns milliseconds for one repeat: the least of three stretches of repeats
 */
export async function timeOp(
  device: Device,
  prepare: () => (turn: number) => void,
  options: TimingOptions = {},
): Promise<number> {
  const { copies = 1 } = options;
  const measure = device.adapter.timestamps ? stretches : stretchesByClock;
  // The first submission compiles, and brings textures up to their buffers on software adapters.
  const first = await measure(device, prepare, copies, 2);
  let turns = options.repeats;
  if (turns === undefined) {
    const one = Math.min(...first.milliseconds) / copies;
    const wanted = STRETCH_MILLISECONDS[device.adapter.type] / Math.max(one, 1e-4);
    const most = Math.max(1, Math.floor(MOST_COMMANDS / (first.commands / copies)));
    turns = Math.min(Math.ceil(wanted), most);
  }
  turns = Math.ceil(Math.max(turns, 1) / copies) * copies;
  const { milliseconds } = await measure(device, prepare, turns, TRIES);
  return Math.min(...milliseconds) / turns;
}
