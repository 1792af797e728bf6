/**
 * `nibble train --profile`: where a step's time goes.
 *
 * @module
 */
import { type Profile, profile } from "../bench/profile.ts";
import { versionsHere } from "../bench/report.ts";
import { traceOf, writeTrace } from "../bench/trace.ts";
import type { Device } from "../core/device.ts";
import type { Trainer } from "../train/loop.ts";
import { duration, significant } from "./print.ts";
import { showProfile } from "./profile_table.ts";

/** Steps before the profiled one: the first compiles, and records. */
const WARM_STEPS = 2;

/** What a profiled run found. */
export interface TrainProfile {
  /** The step that was profiled. */
  readonly step: number;
  /** That step. */
  readonly profile: Profile;
  /** Seconds until the first step was done: it plans memory, records and compiles. */
  readonly firstSeconds: number;
  /** Kernels that were compiled since the device was opened. */
  readonly pipelines: number;
  /** Milliseconds that compiling took. */
  readonly compileMilliseconds: number;
}

/** Makes a run's steps one way or another. */
type Run = (until: number) => Promise<void>;

/**
 * Makes the first steps of a run, the last of them under the profiler.
 *
 * @param device the device of the model
 * @param trainer the run; its other steps are left
 * @param run makes steps up to a number
 * @param start when the first step began, as `performance.now()` gave it
 */
export async function profileStep(
  device: Device,
  trainer: Trainer,
  run: Run,
  start: number,
): Promise<TrainProfile> {
  const first = trainer.step + 1;
  let firstSeconds = 0;
  const last = Math.min(trainer.step + WARM_STEPS + 1, trainer.steps);
  if (last > first) {
    await run(first);
    firstSeconds = (performance.now() - start) / 1000;
    await run(last - 1);
  }
  const found = await profile(device, () => run(last));
  const { pipelines, compileMilliseconds } = device.counters;
  return {
    step: last,
    profile: found,
    firstSeconds: firstSeconds || (performance.now() - start) / 1000,
    pipelines,
    compileMilliseconds,
  };
}

/** What is printed about it, and where its trace is. */
export function showTrainProfile(found: TrainProfile, trace: string): string {
  const { step, firstSeconds, pipelines, compileMilliseconds } = found;
  return `The first step took ${duration(firstSeconds)}; compiling ${pipelines} kernels took ${
    significant(compileMilliseconds)
  } ms\nStep ${step}: ${showProfile(found.profile)}\nEvery dispatch of it is in ${trace}`;
}

/** Writes the profiled step into a folder, for chrome://tracing. Gives the file's path. */
export async function writeTrainTrace(
  folder: string,
  found: TrainProfile,
  device: Device,
): Promise<string> {
  const { step, profile, firstSeconds, pipelines, compileMilliseconds } = found;
  const adapter = device.adapter.name;
  const about = { adapter, ...await versionsHere(), step, firstSeconds, pipelines };
  return await writeTrace(
    folder,
    `step-${step}`,
    traceOf(profile, { ...about, compileMilliseconds }),
  );
}

/** What `--json` has of it. */
export function jsonProfile(found: TrainProfile, trace: string): Record<string, unknown> {
  const { profile: { kernels, milliseconds }, ...rest } = found;
  return { ...rest, milliseconds, kernels, trace };
}
