/**
 * A bench's results as JSON: what `nibble bench --json` prints, what the scripts in peers/ print, and what `--compare` reads.
 *
 * @module
 */
import project from "../deno.json" with { type: "json" };
import type { AdapterDescription } from "../core/adapter.ts";
import { readFault } from "../train/files/input.ts";
import { askNvidia } from "./nvidia.ts";

/** A row: a kernel at a shape, or a whole step. A row may have more figures than these. */
export interface BenchRow {
  /** What was measured, such as "matmul nt". */
  readonly name: string;
  /** The lengths, such as "M=512 N=4096 K=4096". */
  readonly shape: string;
  /** Milliseconds of one run, the median; null where the result was wrong, and was not timed. */
  readonly ms: number | null;
  /** Billions of floating-point operations per second. */
  readonly gflops?: number;
  /** Billions of bytes per second. */
  readonly gbps?: number;
  /** The most bytes that were held at once. */
  readonly peakBytes?: number;
}

/** A row that was not measured. */
export interface SkippedRow {
  /** What would have been measured, with its lengths where they are known. */
  readonly name: string;
  /** Why not. */
  readonly reason: string;
}

/** All results of a run. */
export interface BenchReport {
  /** What they were measured on. */
  readonly adapter: Pick<AdapterDescription, "name"> & Partial<AdapterDescription>;
  /** What they were measured with, each by its name. */
  readonly versions: Readonly<Record<string, string>>;
  /** The rows. */
  readonly results: readonly BenchRow[];
  /** Rows that were asked for and are not there. */
  readonly skipped?: readonly SkippedRow[];
}

/** What this bench was made with; the driver's version where nvidia-smi tells it. */
export async function versionsHere(): Promise<Record<string, string>> {
  const driver = (await askNvidia())?.driver;
  return {
    nibble: project.version,
    deno: Deno.version.deno,
    ...driver === undefined ? {} : { driver },
  };
}

function isRow(value: unknown): value is BenchRow {
  if (value === null || typeof value !== "object") return false;
  const { name, shape, ms } = value as Record<string, unknown>;
  return typeof name === "string" && typeof shape === "string" &&
    (ms === null || typeof ms === "number" && ms > 0);
}

/**
 * Reads a report.
 *
 * @param path its file
 * @throws {Error} if it cannot be read
 * @throws {SyntaxError} if it is not JSON
 * @throws {TypeError} if it is no report
 */
export async function readReport(path: string): Promise<BenchReport> {
  let report: Partial<BenchReport> | null;
  try {
    report = JSON.parse(await Deno.readTextFile(path));
  } catch (error) {
    if (!(error instanceof SyntaxError)) throw readFault(path, "the results in", error);
    throw new SyntaxError(`Cannot read the results in "${path}": ${error.message}`);
  }
  const { adapter, versions, results } = report ?? {};
  const fault = typeof adapter?.name !== "string"
    ? "it has no adapter with a name"
    : !Array.isArray(results)
    ? "it has no list of results"
    : results.some((row) => !isRow(row))
    ? `result ${results.findIndex((row) => !isRow(row)) + 1} has no name, shape and ms`
    : null;
  if (fault === null) return { adapter: adapter!, versions: versions ?? {}, results: results! };
  throw new TypeError(
    `Cannot read the results in "${path}": ${fault}; wanted a file that nibble bench --json FILE wrote`,
  );
}
