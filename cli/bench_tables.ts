/**
 * What `nibble bench` prints for people: rows as they come.
 *
 * @module
 */
import type { Comparison } from "../bench/compare.ts";
import { type EndToEndTiming, WORKS } from "../bench/end_to_end/run.ts";
import { KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import type { SkippedRow } from "../bench/report.ts";
import { paint, row, significant, table } from "./print.ts";

/** Rows are printed as they come, so widths are known beforehand; a longer shape only pushes its own row. */
const KERNEL_WIDTHS = [
  Math.max(...KERNEL_CASES.map(({ kernel }) => kernel.length)),
  36,
  ...[-9, -8, -8, -9, -9, -9, -5],
];

/** The head of the kernels' table. */
export const KERNEL_HEAD: string = row(
  ["kernel", "shape", "ms", "GFLOP/s", "GB/s", "min", "max", "error", "MHz"],
  KERNEL_WIDTHS,
);

/** A kernel's row. */
export function showKernel(
  { name, shape, ms, gflops, gbps, error, ...spread }: KernelTiming,
): string {
  const time = ms === null ? paint("red", "WRONG".padStart(9)) : significant(ms);
  const rates = [gflops, gbps].map((rate) => rate === undefined ? "" : significant(rate));
  const around = [spread.minMs, spread.maxMs].map((own) => own ? significant(own) : "");
  const clock = spread.clockMhz ? String(Math.round(spread.clockMhz)) : "";
  return row(
    [name, shape, time, ...rates, ...around, error.toExponential(1), clock],
    KERNEL_WIDTHS,
  );
}

/** A row that was not measured. */
export function showSkipped({ name, reason }: SkippedRow): string {
  return paint("yellow", `${name}: not measured, ${reason}`);
}

const WORK_WIDTHS = [
  Math.max(...WORKS.map(({ name }) => name.length)),
  30,
  ...[-8, -8, -8, -9, -10, -9, -10, -8, -12, -8, -5],
];

/** The head of the table of whole steps. */
export const WORK_HEAD: string = row([
  "work",
  "shape",
  ...["ms", "min", "max", "tokens/s", "dispatches", "cold ms", "compile ms"],
  ...["peak MiB", "reserved MiB", "GPU MiB", "MHz"],
], WORK_WIDTHS);

/** A row of whole steps. */
export function showWork(result: EndToEndTiming): string {
  const { ms, minMs, maxMs, tokensPerSecond, dispatches, coldMs, compileMs } = result;
  const mebibytes = (bytes: number | null) => bytes === null ? "" : significant(bytes / 2 ** 20);
  const numbers = [ms, minMs, maxMs, tokensPerSecond, dispatches, coldMs, compileMs];
  const { peakBytes, reservedBytes, driverBytes } = result;
  const memory = [peakBytes, reservedBytes, driverBytes].map(mebibytes);
  const clock = result.clockMhz === null ? "" : String(Math.round(result.clockMhz));
  const cells = [result.name, result.shape, ...numbers.map(significant), ...memory, clock];
  return row(cells, WORK_WIDTHS);
}

/** Two runs beside each other. */
export function showComparison({ rows, onlyBefore, onlyAfter }: Comparison): string {
  const time = (ms: number | null) => ms === null ? "WRONG" : significant(ms);
  const lines = rows.map(({ name, shape, before, after, speedup, memory, isWorse }) => [
    ...[name, shape, time(before), time(after)],
    speedup === null ? "" : speedup.toFixed(2),
    memory === null ? "" : memory.toFixed(2),
    isWorse ? paint("red", "SLOWER") : "",
  ]);
  const head = ["name", "shape", "ms before", "ms after", "times as fast", "memory", ""];
  const parts = [table(head, lines, { right: [2, 3, 4, 5], boxed: false })];
  if (onlyBefore.length > 0) parts.push(`Only in the first: ${onlyBefore.join("; ")}`);
  if (onlyAfter.length > 0) parts.push(`Only in the second: ${onlyAfter.join("; ")}`);
  return parts.join("\n");
}
