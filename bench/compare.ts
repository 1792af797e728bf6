/**
 * Two runs of a bench, row by row.
 *
 * @module
 */
import type { BenchReport, BenchRow } from "./report.ts";

/** A row that both runs have. */
export interface ComparedRow {
  /** What was measured. */
  readonly name: string;
  /** The lengths. */
  readonly shape: string;
  /** Milliseconds before; null where the result was wrong. */
  readonly before: number | null;
  /** Milliseconds after. */
  readonly after: number | null;
  /** How many times faster it became: before / after; null where one is missing. */
  readonly speedup: number | null;
  /** Bytes after as a share of those before, where both tell. */
  readonly memory: number | null;
  /** Whether it became slower by more than the threshold, or wrong. */
  readonly isWorse: boolean;
}

/** What two runs have in common, and what only one of them has. */
export interface Comparison {
  /** Whether both ran on an adapter of one name: otherwise times compare machines. */
  readonly isSameAdapter: boolean;
  /** The rows of both, in the order of the newer run. */
  readonly rows: readonly ComparedRow[];
  /** Names and shapes of the older run's other rows. */
  readonly onlyBefore: readonly string[];
  /** Names and shapes of the newer run's other rows. */
  readonly onlyAfter: readonly string[];
}

function keyOf({ name, shape }: BenchRow): string {
  return `${name} ${shape}`;
}

function compareRow(before: BenchRow, after: BenchRow, threshold: number): ComparedRow {
  const speedup = before.ms === null || after.ms === null ? null : before.ms / after.ms;
  const memory = before.peakBytes && after.peakBytes ? after.peakBytes / before.peakBytes : null;
  const isWorse = before.ms !== null &&
    (after.ms === null || after.ms > before.ms * (1 + threshold));
  const { name, shape } = after;
  return { name, shape, before: before.ms, after: after.ms, speedup, memory, isWorse };
}

/**
 * Compares two runs: of two versions on one machine, or of a peer and nibble.
 *
 * @param before the older run, or the peer's
 * @param after the newer run
 * @param threshold a row whose time grew by more than this share counts as worse
 */
export function compareReports(
  before: BenchReport,
  after: BenchReport,
  threshold: number,
): Comparison {
  const older = new Map(before.results.map((row) => [keyOf(row), row]));
  const newer = new Set(after.results.map(keyOf));
  return {
    isSameAdapter: before.adapter.name === after.adapter.name,
    rows: after.results.flatMap((row) => {
      const own = older.get(keyOf(row));
      return own ? [compareRow(own, row, threshold)] : [];
    }),
    onlyBefore: [...older.keys()].filter((key) => !newer.has(key)),
    onlyAfter: [...newer].filter((key) => !older.has(key)),
  };
}
