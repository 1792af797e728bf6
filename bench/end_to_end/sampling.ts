/**
 * Times of work that is measured whole: by the host's clock, warm, until the device is done.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";

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
}

/** The middle of some numbers. */
export function median(values: readonly number[]): number {
  const sorted = [...values].sort((a, b) => a - b);
  const half = sorted.length >> 1;
  return sorted.length % 2 === 1 ? sorted[half] : (sorted[half - 1] + sorted[half]) / 2;
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
  const before = device.counters.dispatches;
  const found: number[] = [];
  for (let i = 0; i < samples; i++) found.push(await timed(count) / count);
  return {
    median: median(found),
    min: Math.min(...found),
    max: Math.max(...found),
    dispatches: (device.counters.dispatches - before) / (samples * count),
  };
}
