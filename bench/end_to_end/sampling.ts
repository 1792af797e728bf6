/**
 * Times of work that is measured whole: by the host's clock, warm, until the device is done.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { probeClock } from "../clock.ts";
import { median } from "../spread.ts";

/** How long work is timed. */
export interface SampleOptions {
  /** Samples; 5 by default. */
  readonly samples?: number;
  /** How long a sample should be, in milliseconds; 400 by default. */
  readonly sampleMilliseconds?: number;
  /** Runs in all, warm-up and samples together, at most. */
  readonly most?: number;
}

/** The times of one run, in milliseconds. */
export interface Samples {
  /** The median. */
  readonly median: number;
  /** The shortest. */
  readonly min: number;
  /** The longest. */
  readonly max: number;
  /** Dispatches of one run. */
  readonly dispatches: number;
  /** The GPU's clock beside them, in MHz: the lower one of before and after; null where it cannot be measured. */
  readonly clockMhz: number | null;
}

/**
 * Times work that can be repeated.
 *
 * @param device what it runs on
 * @param run runs it so many times, and returns when the device is done. It has run before: nothing is left to compile
 * @param options how long
 */
export async function sampleRuns(
  device: Device,
  run: (count: number) => Promise<void>,
  options: SampleOptions = {},
): Promise<Samples> {
  const { samples = 5, sampleMilliseconds: wanted = 400, most = Infinity } = options;
  const timed = async (count: number) => {
    const start = performance.now();
    await run(count);
    return performance.now() - start;
  };
  // Doubled until a sample is long enough. These runs also wake a GPU that idles at a fraction of its clock.
  let count = 1;
  let used = 1;
  let spent = await timed(1);
  while (spent < wanted / 2 && used + 2 * count * (1 + samples) <= most) {
    count = 2 * count;
    used += count;
    spent = await timed(count);
  }
  const clock = await probeClock(device);
  const before = device.counters.dispatches;
  const found: number[] = [];
  for (let i = 0; i < samples; i++) found.push(await timed(count) / count);
  const dispatches = (device.counters.dispatches - before) / (samples * count);
  return {
    median: median(found),
    min: Math.min(...found),
    max: Math.max(...found),
    dispatches,
    clockMhz: clock && Math.min(clock, await probeClock(device) ?? clock),
  };
}
