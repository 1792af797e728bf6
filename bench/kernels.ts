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
import { QUANT_CASES } from "./cases/quant.ts";
import { ROW_CASES } from "./cases/rows.ts";
import { timeOp } from "./timing.ts";

/** One kernel at one shape. */
export interface KernelTiming {
  /** The kernel's name, such as "matmul nt". */
  readonly kernel: string;
  /** The lengths, such as "M=512 N=4096 K=4096". */
  readonly shape: string;
  /** Time of one run on the device; `null` where the result was wrong, which is not timed. */
  readonly milliseconds: number | null;
  /** Billions of floating-point operations per second, for kernels bound by arithmetic. */
  readonly gflops?: number;
  /** Billions of bytes per second, of the bytes that must be read and written, for kernels bound by memory. */
  readonly gbs?: number;
  /** The largest difference from the reference, as a share of the largest expected magnitude; infinite if a number is missing. */
  readonly error: number;
  /** The error up to which a result counts as right. */
  readonly allowed: number;
}

/** What to bench. */
export interface BenchOptions {
  /** Only kernels whose name contains this. */
  readonly filter?: string;
  /** Runs in each timed stretch; chosen by time without it. */
  readonly repeats?: number;
  /** Lengths: those of tests, of a small model, of a large model. By default "software" or "gpu", as the adapter is. */
  readonly sizes?: "tiny" | "software" | "gpu";
  /** Other cases than all of nibble's. */
  readonly cases?: readonly KernelCase[];
  /** Called with each result as it comes. */
  readonly onResult?: (result: KernelTiming) => void;
}

/** All cases. */
export const KERNEL_CASES: readonly KernelCase[] = [
  ...LINEAR_CASES,
  ...QUANT_CASES,
  ...ATTENTION_CASES,
  ...ROW_CASES,
  ...POINTWISE_CASES,
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

/** Times a case. */
function timeCase(
  device: Device,
  kernel: KernelCase,
  sizes: Sizes,
  repeats?: number,
): Promise<number> {
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
  return timeOp(device, prepare, { copies, repeats });
}

/** Lengths as text. */
function show(sizes: Sizes): string {
  return Object.entries(sizes).map(([name, length]) => `${name}=${length}`).join(" ");
}

/**
 * Checks and times kernels. bench/README.md says how.
 *
 * @param device the device to run on
 * @param options which kernels, at which lengths
 * @returns a result for each kernel and shape; one whose result was wrong has no time
 * @throws {RangeError} if no kernel's name contains the filter
 *
 * @example
 * ```ts
 * import { openDevice } from "@nibble/nibble";
 * import { benchKernels } from "./kernels.ts";
 *
 * using device = await openDevice();
 * for (const { kernel, shape, milliseconds } of await benchKernels(device, { filter: "matmul" })) {
 *   console.log(kernel, shape, milliseconds);
 * }
 * ```
 */
export async function benchKernels(
  device: Device,
  options: BenchOptions = {},
): Promise<KernelTiming[]> {
  const { filter = "", repeats, sizes: which = device.adapter.type, onResult } = options;
  const all = options.cases ?? KERNEL_CASES;
  const chosen = all.filter(({ kernel }) => kernel.includes(filter));
  if (chosen.length === 0) {
    const names = all.map(({ kernel }) => kernel).join(", ");
    throw new RangeError(
      `Cannot bench "${filter}": no kernel has it in its name. There are ${names}`,
    );
  }
  const found: KernelTiming[] = [];
  for (const kernel of chosen) {
    let error = kernel.checkTimed ? null : await checkCase(device, kernel, kernel.tiny);
    for (const sizes of which === "tiny" ? [kernel.tiny] : kernel[which]) {
      if (kernel.checkTimed) error = await checkCase(device, kernel, sizes);
      const right = error! <= kernel.allowed;
      const milliseconds = right ? await timeCase(device, kernel, sizes, repeats) : null;
      const rate = (amount: number) => amount / (milliseconds! * 1e6);
      const result: KernelTiming = {
        kernel: kernel.kernel,
        shape: show(sizes),
        milliseconds,
        ...right && kernel.flops ? { gflops: rate(kernel.flops(sizes)) } : {},
        ...right && kernel.bytes ? { gbs: rate(kernel.bytes(sizes)) } : {},
        error: error!,
        allowed: kernel.allowed,
      };
      found.push(result);
      onResult?.(result);
      // Large inputs go before the next case needs its own.
      device.trim();
    }
  }
  return found;
}
