/**
 * A profile as people read it.
 *
 * @module
 */
import type { Profile } from "../bench/profile.ts";
import { percent, significant, table } from "./print.ts";

/** So many kernels have a row of their own. */
const MOST_ROWS = 30;

/** A row for each kernel, the most expensive first: calls, time, share, and what it achieves where its work is known. */
export function showProfile({ kernels, milliseconds }: Profile, most = MOST_ROWS): string {
  const total = kernels.reduce((sum, own) => sum + own.milliseconds, 0);
  const rate = (value?: number) => value === undefined ? "" : significant(value);
  const rows = kernels.slice(0, most).map((own) => [
    own.kernel,
    own.dispatches,
    significant(own.milliseconds),
    percent(own.milliseconds / total),
    rate(own.gflops),
    rate(own.gbps),
  ]);
  const calls = kernels.reduce((sum, own) => sum + own.dispatches, 0);
  const rest = kernels.length > most ? `\n${kernels.length - most} more kernels` : "";
  const head = ["kernel", "calls", "ms", "share", "GFLOP/s", "GB/s"];
  return `${calls} dispatches: ${significant(total)} ms in kernels, ${
    significant(milliseconds)
  } ms from the first to the last\n` +
    table(head, rows, { right: [2, 3, 4, 5], boxed: false }) + rest;
}
