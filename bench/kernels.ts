/**
 * Every kernel: first checked against its reference, then timed.
 *
 * @module
 */
import type { Device } from "../core/device.ts";
import type { Tensor, TypedArray } from "../core/tensor.ts";
import { type Expected, Inputs, type KernelCase, type Sizes } from "./case.ts";
import { ATTENTION_CASES } from "./cases/attention.ts";
import { LINEAR_CASES } from "./cases/linear.ts";
import { POINTWISE_CASES } from "./cases/pointwise.ts";
import { BYTE_CASES } from "./cases/bytes.ts";
import { GGUF_CASES } from "./cases/gguf.ts";
import { PICTURE_CASES } from "./cases/pictures.ts";
import { QUANT_CASES } from "./cases/quant.ts";
import { ROUNDING_CASES } from "./cases/rounding.ts";
import { ROW_CASES } from "./cases/rows.ts";
import type { SkippedRow } from "./report.ts";
import { type RunTimes, timeRuns } from "./timing.ts";

/** One kernel at one shape. */
export interface KernelTiming {
  /** The kernel's name, such as "matmul nt". */
  readonly name: string;
  /** The lengths, such as "M=512 N=4096 K=4096". */
  readonly shape: string;
  /** Milliseconds of one run on the device, the median of some stretches; `null` where the result was wrong, which is not timed. */
  readonly ms: number | null;
  /** The shortest. */
  readonly minMs?: number;
  /** The longest. */
  readonly maxMs?: number;
  /** Billions of floating-point operations per second, for kernels bound by arithmetic. */
  readonly gflops?: number;
  /** Billions of bytes per second, of the bytes that must be read and written, for kernels bound by memory. */
  readonly gbps?: number;
  /** The largest difference from the reference, as a share of the largest expected magnitude; infinite if a number is missing. */
  readonly error: number;
  /** The error up to which a result counts as right. */
  readonly allowed: number;
  /** The GPU's clock beside the measurement, in MHz; null where it cannot be measured. */
  readonly clockMhz?: number | null;
}

/** What to bench. */
export interface BenchOptions {
  /** Only kernels whose name contains this. */
  readonly filter?: string;
  /** Only kernels whose name begins with one of these. */
  readonly kernels?: readonly string[];
  /** Runs in each timed stretch; chosen by time without it. */
  readonly repeats?: number;
  /** Lengths: those of tests, of a small model, of a large model. By default "software" or "gpu", as the adapter is. */
  readonly sizes?: "tiny" | "software" | "gpu";
  /** One length for M, N and K, for rows and columns, for the length of sequences: see `squareOf`. Instead of `sizes`. */
  readonly size?: number;
  /** Other cases than all of nibble's. */
  readonly cases?: readonly KernelCase[];
  /** Called with each result as it comes. */
  readonly onResult?: (result: KernelTiming) => void;
  /** Called with what cannot be measured, and whether that is a fault, or lies in the lengths. Without it such a row throws. */
  readonly onSkip?: (row: SkippedRow, isFault: boolean) => void;
}

/** All cases. */
export const KERNEL_CASES: readonly KernelCase[] = [
  ...LINEAR_CASES,
  ...QUANT_CASES,
  ...BYTE_CASES,
  ...GGUF_CASES,
  ...ATTENTION_CASES,
  ...ROUNDING_CASES,
  ...ROW_CASES,
  ...POINTWISE_CASES,
  ...PICTURE_CASES,
];

/** Inputs of memory-bound kernels rotate over so many bytes, so that each run finds them out of the caches. */
const RING_BYTES = { gpu: 256 << 20, software: 64 << 20 } as const;
const MOST_COPIES = 64;

/** The largest difference, as a share of the largest expected magnitude. A result that is not a number counts as infinite. */
function errorOf(actual: ArrayLike<number>, { values, at }: Expected): number {
  if (!at && actual.length !== values.length) return Infinity;
  let difference = 0;
  let largest = 0;
  for (let i = 0; i < values.length; i++) {
    const off = Math.abs(actual[at ? at[i] : i] - values[i]);
    if (!(off <= Number.MAX_VALUE)) return Infinity;
    difference = Math.max(difference, off);
    largest = Math.max(largest, Math.abs(values[i]));
  }
  return difference / (largest || 1);
}

/** Bits that are no kernel's result: what it does not write stays visible. */
function poison(t: Tensor): void {
  t.device.write(t, new Uint32Array(Math.ceil(t.bytes / 4)).fill(0x7fc0dead));
}

/**
 * Runs a case once and compares every result with the reference.
 *
 * @returns the largest relative error of all results
 */
export async function checkCase(
  device: Device,
  kernel: KernelCase,
  sizes: Sizes,
): Promise<number> {
  const { work, inputs, results: made } = device.scope(() => {
    const inputs = new Inputs(device, 1);
    const work = kernel.make(inputs, sizes);
    let results = work.run();
    if (!kernel.inPlace && !work.results) {
      // The pool hands out what was freed last: the second run writes to the same memory, now poisoned.
      device.flush();
      results.forEach(poison);
      results.toReversed().forEach((t) => t.dispose());
      results = work.run();
    }
    return { work, inputs: inputs.tensors, results: [...results] };
  });
  const results = work.results ? await work.results() : made;
  const known = new Map<Tensor, TypedArray>();
  await Promise.all([...new Set([...inputs, ...results])].map(async (t) => {
    known.set(t, await t.read());
  }));
  const expected = work.expected((t) => {
    const values = known.get(t);
    if (values) return values;
    throw new TypeError(`Cannot check "${kernel.kernel}": its reference reads what is no input`);
  });
  const error = expected.length === results.length
    ? Math.max(...expected.map((own, i) => errorOf(known.get(results[i])!, own)))
    : Infinity;
  for (const t of known.keys()) t.dispose();
  return error;
}

/** The lengths at which a case's result is checked before these are timed. */
export function checkedLengths({ tiny, checked }: KernelCase, timed: Sizes): Sizes {
  return checked?.(timed) ?? tiny;
}

/** Times a case. */
function timeCase(
  device: Device,
  kernel: KernelCase,
  sizes: Sizes,
  repeats?: number,
): Promise<RunTimes> {
  const ring = RING_BYTES[device.adapter.type];
  const bytes = kernel.bytes?.(sizes) ?? Infinity;
  const copies = Math.min(Math.max(Math.ceil(ring / bytes), 1), MOST_COPIES);
  const prepare = () => {
    const works = Array.from(
      { length: copies },
      (_, seed) => kernel.make(new Inputs(device, seed), sizes),
    );
    return (turn: number) => void works[turn % copies].run();
  };
  return timeRuns(device, prepare, { copies, repeats });
}

/** The lengths that `squareOf` sets. Batches, heads, and the few rows of a decoded token stay as they are. */
const SQUARE = ["M", "N", "K", "rows", "columns", "length", "keys", "ids", "size"];
const FEW_ROWS = 8;

/** A case's lengths with one length for all that make a kernel's work large. */
export function squareOf(sizes: Sizes, length: number): Sizes {
  return Object.fromEntries(
    Object.entries(sizes).map(([name, own]) => {
      const isFew = name === "M" && own <= FEW_ROWS;
      return [name, SQUARE.includes(name) && !isFew ? length : own];
    }),
  );
}

/** The lengths at which a case is timed. */
function sizesOf(kernel: KernelCase, { size, sizes }: BenchOptions, type: "software" | "gpu") {
  if (size !== undefined) return [squareOf(kernel[type][0] ?? kernel.tiny, size)];
  return sizes === "tiny" ? [kernel.tiny] : kernel[sizes ?? type];
}

/** Why a case has no such lengths, or null. */
function misfitOf({ multiples = {} }: KernelCase, sizes: Sizes): string | null {
  const wrong = Object.keys(multiples).find((name) => sizes[name] % multiples[name] !== 0);
  return wrong ? `${wrong} must be a multiple of ${multiples[wrong]}` : null;
}

/** Lengths as text. */
function show(sizes: Sizes): string {
  return Object.entries(sizes).map(([name, length]) => `${name}=${length}`).join(" ");
}

/** A case's times and rates; none where the result was wrong. */
function figuresOf(
  { flops, bytes }: KernelCase,
  sizes: Sizes,
  times: RunTimes | null,
): Pick<KernelTiming, "ms" | "minMs" | "maxMs" | "gflops" | "gbps" | "clockMhz"> {
  if (!times) return { ms: null };
  const rate = (amount: number) => amount / (times.median * 1e6);
  return {
    ms: times.median,
    minMs: times.min,
    maxMs: times.max,
    ...flops ? { gflops: rate(flops(sizes)) } : {},
    ...bytes ? { gbps: rate(bytes(sizes)) } : {},
    clockMhz: times.clockMhz,
  };
}

/** Whether a device takes work: one that refused some, or was lost, does not. */
function isUsable(device: Device): boolean {
  try {
    device.check();
    return true;
  } catch {
    return false;
  }
}

/** Checks a case, unless `errors` has what was found at the same lengths, and times it if its result is right. */
async function benchRow(
  device: Device,
  kernel: KernelCase,
  sizes: Sizes,
  errors: Map<string, number>,
  repeats?: number,
): Promise<KernelTiming> {
  const checked = checkedLengths(kernel, sizes);
  const error = errors.get(show(checked)) ?? await checkCase(device, kernel, checked);
  errors.set(show(checked), error);
  const times = error <= kernel.allowed ? await timeCase(device, kernel, sizes, repeats) : null;
  return {
    name: kernel.kernel,
    shape: show(sizes),
    ...figuresOf(kernel, sizes, times),
    error,
    allowed: kernel.allowed,
  };
}

/**
 * Checks and times kernels. bench/README.md says how.
 *
 * @param device the device to run on
 * @param options which kernels, at which lengths
 * @returns a result for each kernel and shape; one whose result was wrong has no time
 * @throws {RangeError} if no kernel's name contains the filter
 * @throws {Error} if the device is lost, or refused work before
 *
 * @example
 * ```ts
 * import { openDevice } from "@nibble/nibble";
 * import { benchKernels } from "./kernels.ts";
 *
 * using device = await openDevice();
 * for (const { name, shape, ms } of await benchKernels(device, { filter: "matmul" })) {
 *   console.log(name, shape, ms);
 * }
 * ```
 */
export async function benchKernels(
  device: Device,
  options: BenchOptions = {},
): Promise<KernelTiming[]> {
  const { filter = "", kernels: starts = [""], repeats, onResult, onSkip } = options;
  const all = options.cases ?? KERNEL_CASES;
  const chosen = all.filter(({ kernel }) =>
    starts.some((start) => kernel.startsWith(start)) && kernel.includes(filter)
  );
  if (chosen.length === 0) {
    const names = all.map(({ kernel }) => kernel).join(", ");
    throw new RangeError(
      `Cannot bench "${filter || starts.join()}": no kernel has it in its name. There are ${names}`,
    );
  }
  const found: KernelTiming[] = [];
  for (const kernel of chosen) {
    const errors = new Map<string, number>();
    for (const sizes of sizesOf(kernel, options, device.adapter.type)) {
      const misfit = misfitOf(kernel, sizes);
      const name = `${kernel.kernel} ${show(sizes)}`;
      try {
        if (misfit) throw new RangeError(`Cannot bench ${name}: ${misfit}`);
        const result = await benchRow(device, kernel, sizes, errors, repeats);
        found.push(result);
        onResult?.(result);
      } catch (error) {
        if (!onSkip) throw error;
        const { message } = error as Error;
        if (!isUsable(device)) {
          throw new Error(`Cannot go on after ${name}: ${message}`, { cause: error });
        }
        onSkip({ name, reason: misfit ?? message }, misfit === null);
      }
      // Large inputs go before the next case needs its own.
      device.trim();
    }
  }
  return found;
}
