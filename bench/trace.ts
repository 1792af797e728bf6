/**
 * A profile as a file that Chrome's tracing view (chrome://tracing) and Perfetto open: Google's "Trace Event Format", as an object.
 *
 * @module
 */
import { writeWhole } from "../train/files/output.ts";
import type { Profile } from "./profile.ts";

/** An event of the format: complete ("X"), with times in microseconds, or metadata ("M"). */
export interface TraceEvent {
  /** What it is called: the kernel. */
  readonly name: string;
  /** Its kind. */
  readonly ph: "X" | "M";
  /** The process: there is one. */
  readonly pid: number;
  /** The line that it stands on. */
  readonly tid: number;
  /** When it began. */
  readonly ts?: number;
  /** How long it took. */
  readonly dur?: number;
  /** What is shown when it is clicked. */
  readonly args: Readonly<Record<string, unknown>>;
}

/** The file. */
export interface Trace {
  /** One for each dispatch, behind the names of process and line. */
  readonly traceEvents: readonly TraceEvent[];
  /** The unit that the view begins with. */
  readonly displayTimeUnit: "ms";
  /** Where and how it was made. */
  readonly otherData: Readonly<Record<string, unknown>>;
}

/** A profile's dispatches as events of one line. */
export function traceOf(profile: Profile, about: Readonly<Record<string, unknown>> = {}): Trace {
  const place = { pid: 1, tid: 1 };
  const named = (name: string, value: string): TraceEvent => ({
    ...{ name, ph: "M", ...place },
    args: { name: value },
  });
  const events = profile.dispatches.map((own): TraceEvent => ({
    ...{ name: own.kernel, ph: "X", ...place },
    ts: 1000 * own.begin,
    dur: 1000 * own.milliseconds,
    args: { grid: own.grid.join("×"), bytes: own.bytes, flops: own.flops },
  }));
  return {
    traceEvents: [named("process_name", "nibble"), named("thread_name", "GPU"), ...events],
    displayTimeUnit: "ms",
    otherData: about,
  };
}

/** Writes a trace into a folder, which is made, and gives the file's path. */
export async function writeTrace(folder: string, name: string, trace: Trace): Promise<string> {
  const path = `${folder}/${name}.json`;
  await writeWhole(path, JSON.stringify(trace));
  return path;
}
