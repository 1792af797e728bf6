/**
 * What `nibble bench` prints for people: rows as they come.
 *
 * @module
 */
import type { EndToEndTiming } from "../bench/end_to_end/run.ts";
import { WORKS } from "../bench/end_to_end/run.ts";
import { KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import type { Profile } from "../bench/profile.ts";
import { paint, percent, row, significant, table } from "./print.ts";

/** Rows are printed as they come, so widths are known beforehand; a longer shape only pushes its own row. */
const KERNEL_WIDTHS = [
  Math.max(...KERNEL_CASES.map(({ kernel }) => kernel.length)),
  36,
  ...[-9, -8, -8, -9],
];

/** The head of the kernels' table. */
export const KERNEL_HEAD: string = row(
  ["kernel", "shape", "ms", "GFLOP/s", "GB/s", "error"],
  KERNEL_WIDTHS,
);

/** A kernel's row. */
export function showKernel({ kernel, shape, milliseconds, gflops, gbs, error }: KernelTiming) {
  const time = milliseconds === null
    ? paint("red", "WRONG".padStart(9))
    : significant(milliseconds);
  const rates = [gflops, gbs].map((rate) => rate === undefined ? "" : significant(rate));
  return row([kernel, shape, time, ...rates, error.toExponential(1)], KERNEL_WIDTHS);
}

const WORK_WIDTHS = [
  Math.max(...WORKS.map(({ name }) => name.length)),
  30,
  ...[-8, -8, -8, -9, -10, -9, -10, -8, -11, -8],
];

/** The head of the table of whole steps. */
export const WORK_HEAD: string = row([
  "work",
  "shape",
  ...["ms", "min", "max", "tokens/s", "dispatches", "cold ms", "compile ms"],
  ...["peak MiB", "reserved MiB", "GPU MiB"],
], WORK_WIDTHS);

/** A row of whole steps. */
export function showWork(result: EndToEndTiming): string {
  const { ms, minMs, maxMs, tokensPerSecond, dispatches, coldMs, compileMs } = result;
  const mebibytes = (bytes: number | null) => bytes === null ? "" : significant(bytes / 2 ** 20);
  const numbers = [ms, minMs, maxMs, tokensPerSecond, dispatches, coldMs, compileMs];
  const { peakBytes, reservedBytes, driverBytes } = result;
  const memory = [peakBytes, reservedBytes, driverBytes].map(mebibytes);
  return row([result.name, result.shape, ...numbers.map(significant), ...memory], WORK_WIDTHS);
}

/** The kernels of a profile that take most of the time. */
export function showProfile({ kernels, milliseconds }: Profile, most = 20): string {
  const total = kernels.reduce((sum, own) => sum + own.milliseconds, 0);
  const rows = kernels.slice(0, most).map((own) => [
    own.kernel,
    own.dispatches,
    significant(own.milliseconds),
    percent(own.milliseconds / total),
  ]);
  const head = `${significant(total)} ms in kernels, ${significant(milliseconds)} ms in all`;
  return `${head}\n${
    table(["kernel", "dispatches", "ms", "share"], rows, { right: [2, 3], boxed: false })
  }`;
}
