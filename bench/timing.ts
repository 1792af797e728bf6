/**
 * How long the device takes for an op, without the host's part: queueing, submitting, waiting.
 *
 * @module
 */
import type { Device } from "../core/device.ts";
import {
  encodeWarmUp,
  hasClock,
  megahertzOf,
  recordProbe,
  Stopwatch,
  warmUpLonger,
  warmUpOf,
} from "./clock.ts";
import { encodeRecorded, record, type Recording } from "./recording.ts";
import { median } from "./spread.ts";

/** How often an op is timed. */
export interface TimingOptions {
  /** How often it runs in each timed stretch; without it, as often as makes the stretch long enough to measure. */
  readonly repeats?: number;
  /** The repeats cycle through so many sets of inputs: every stretch sees all of them. 1 by default. */
  readonly copies?: number;
}

/** The times of one run in milliseconds, over all stretches. */
export interface RunTimes {
  /** The median. */
  readonly median: number;
  /** The shortest. */
  readonly min: number;
  /** The longest. */
  readonly max: number;
  /** The GPU's clock beside them, in MHz; null where it cannot be measured. */
  readonly clockMhz: number | null;
}

/** Timed stretches. */
const TRIES = { gpu: 5, software: 3 } as const;

/** How long a timed stretch should be, and how many commands it may have at most. */
const STRETCH_MILLISECONDS = { gpu: 10, software: 50 } as const;
const MOST_COMMANDS = 2000;

/** Below this share of the fastest clock that was seen, the GPU was not awake, and is measured again. */
const AWAKE_SHARE = 0.9;
const ROUNDS = 3;

type Prepare = () => (turn: number) => void;

/** What a submission told. */
interface Stretches {
  /** Milliseconds of each stretch. */
  readonly milliseconds: readonly number[];
  /** Commands of a stretch. */
  readonly commands: number;
  readonly clockMhz: number | null;
}

/** Records so many turns. */
function recordTurns(device: Device, prepare: Prepare, turns: number): Recording {
  const queue = prepare();
  const recording = record(device, () => {
    for (let turn = 0; turn < turns; turn++) queue(turn);
  });
  device.flush(); // what `prepare` queued
  return recording;
}

/** One submission: warm-up, a probe of the clock, stretches of so many turns, the probe again; each between timestamps. */
async function stretches(
  device: Device,
  prepare: Prepare,
  turns: number,
  tries: number,
): Promise<Stretches> {
  const warmUp = await warmUpOf(device);
  const probed = hasClock(device);
  const { encoder, watch, commands } = device.scope(() => {
    const recording = recordTurns(device, prepare, turns);
    const watch = new Stopwatch(device.gpu, tries + (probed ? 2 : 0));
    const encoder = device.gpu.createCommandEncoder();
    encodeWarmUp(device, encoder, warmUp);
    const probe = (stretch: number) => {
      const own = recordProbe(device);
      watch.time(encoder, stretch, () => encodeRecorded(encoder, own));
      own.release();
    };
    if (probed) probe(tries);
    for (let i = 0; i < tries; i++) {
      watch.time(encoder, i, () => encodeRecorded(encoder, recording));
    }
    if (probed) probe(tries + 1);
    recording.release();
    return { encoder, watch, commands: recording.commands.length };
  });
  const all = await watch.finish(encoder);
  device.check();
  return {
    milliseconds: all.slice(0, tries),
    commands,
    clockMhz: probed ? megahertzOf(Math.max(...all.slice(tries))) : null,
  };
}

/** The same by the host's clock: the difference between one stretch and two in a submission is a stretch, without the waiting. */
async function stretchesByClock(
  device: Device,
  prepare: Prepare,
  turns: number,
  tries: number,
): Promise<Stretches> {
  const warmUp = await warmUpOf(device);
  const found: number[][] = [[], []];
  let commands = 0;
  for (let i = 0; i < 2 * tries; i++) {
    const { encoder } = device.scope(() => {
      const recording = recordTurns(device, prepare, turns);
      commands = recording.commands.length;
      const encoder = device.gpu.createCommandEncoder();
      encodeWarmUp(device, encoder, warmUp);
      for (let part = 0; part <= i % 2; part++) encodeRecorded(encoder, recording);
      recording.release();
      return { encoder };
    });
    await device.finish();
    const start = performance.now();
    device.gpu.queue.submit([encoder.finish()]);
    await device.finish();
    found[i % 2].push(performance.now() - start);
  }
  const least = Math.min(...found[1]) - Math.min(...found[0]);
  return { milliseconds: [Math.max(least, 1e-6)], commands, clockMhz: null };
}

/** The fastest clock that was seen on a device. */
const fastest = new WeakMap<Device, number>();

/** Measures until the GPU was awake. */
async function awake(device: Device, measure: () => Promise<Stretches>): Promise<Stretches> {
  for (let round = 1;; round++) {
    const found = await measure();
    const { clockMhz } = found;
    if (clockMhz === null) return found;
    const best = Math.max(fastest.get(device) ?? 0, clockMhz);
    fastest.set(device, best);
    if (clockMhz >= AWAKE_SHARE * best || round === ROUNDS) return found;
    await warmUpLonger(device);
  }
}

/**
 * The times that the device takes for an op. All repeats are in one submission, behind a warm-up, so that neither the host nor a
 * sleeping GPU is measured; each repeat writes where the last one wrote, so that they run one after another. Timestamps on the GPU
 * are used where there are any, and else the host's clock. A submission in which the GPU's clock was low is made again.
 *
 * @param device the device of all tensors
 * @param prepare makes the inputs and returns what queues the op; `turn` counts the repeats, and chooses among copies of the
 * inputs. It is called for every submission, and its tensors are freed after it
 * @param options how often
 */
export async function timeRuns(
  device: Device,
  prepare: () => (turn: number) => void,
  options: TimingOptions = {},
): Promise<RunTimes> {
  const { copies = 1 } = options;
  const { timestamps, type } = device.adapter;
  const measure = timestamps ? stretches : stretchesByClock;
  // The first submission compiles, and brings textures up to their buffers on software adapters.
  const first = await measure(device, prepare, copies, 2);
  let turns = options.repeats;
  if (turns === undefined) {
    const one = Math.min(...first.milliseconds) / copies;
    const wanted = STRETCH_MILLISECONDS[type] / Math.max(one, 1e-4);
    const most = Math.max(1, Math.floor(MOST_COMMANDS / (first.commands / copies)));
    turns = Math.min(Math.ceil(wanted), most);
  }
  turns = Math.ceil(Math.max(turns, 1) / copies) * copies;
  const { milliseconds, clockMhz } = await awake(
    device,
    () => measure(device, prepare, turns, TRIES[type]),
  );
  const times = milliseconds.map((own) => own / turns);
  return {
    median: median(times),
    min: Math.min(...times),
    max: Math.max(...times),
    clockMhz,
  };
}

/** The shortest time of `timeRuns`, in milliseconds: everything that disturbs makes a stretch longer. */
export async function timeOp(
  device: Device,
  prepare: () => (turn: number) => void,
  options: TimingOptions = {},
): Promise<number> {
  return (await timeRuns(device, prepare, options)).min;
}
