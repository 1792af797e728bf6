/**
 * What a kernel bench is made of: inputs, an op, its reference, and the sizes at which it runs.
 *
 * @module
 */
import { type EarlierGradients, noGrad } from "../core/autograd.ts";
import { floatBits, uniform } from "../core/binding.ts";
import type { Device } from "../core/device.ts";
import { gridOf } from "../core/grid.ts";
import { kernel } from "../core/kernel.ts";
import { cast } from "../kernels/pointwise/cast.ts";
import { type DType, empty, type Tensor, tensor, type TypedArray } from "../core/tensor.ts";
import fillCode from "./fill.wgsl" with { type: "text" };

const fillKernel = kernel("fill", fillCode);

/** Named lengths, such as `{ M: 512, N: 4096, K: 4096 }`. */
export type Sizes = Readonly<Record<string, number>>;

/** The numbers that a result must have; with `at`, only those at these places. */
export interface Expected {
  readonly values: ArrayLike<number>;
  readonly at?: readonly number[];
}

/** An op with its inputs. */
export interface Workload {
  /** Queues the op once, and gives its results. */
  run(): readonly Tensor[];
  /** Computes the results where `run` cannot give them, because the op reads numbers on its way. */
  results?(): Promise<readonly Tensor[]>;
  /** What the results must be after one run, from the reference. `read` gives an input's elements. */
  expected(read: (t: Tensor) => TypedArray): readonly Expected[];
}

/** A kernel to check and time. */
export interface KernelCase {
  /** What a filter finds it by, such as "matmul nt". */
  readonly kernel: string;
  /** Where the check is quick although it takes the same kernels as the timed sizes. */
  readonly tiny: Sizes;
  /** Sizes for software Vulkan, and for a GPU. */
  readonly software: readonly Sizes[];
  readonly gpu: readonly Sizes[];
  /**
   * The lengths at which a result is checked before these are timed: those of `tiny` by default, where they take the same kernels,
   * with the same constants; else others at which the reference is quick.
   */
  readonly checked?: (timed: Sizes) => Sizes;
  /** Lengths that must be multiples of these: of a block of weights, of what a vector loads. */
  readonly multiples?: Sizes;
  /** The largest relative error that passes. */
  readonly allowed: number;
  /** Floating-point operations of one run; for kernels that are bound by arithmetic. */
  readonly flops?: (sizes: Sizes) => number;
  /** Bytes that one run must read and write at least; for kernels that are bound by memory. */
  readonly bytes?: (sizes: Sizes) => number;
  /** The op changes its inputs, so that it runs once in the check. */
  readonly inPlace?: boolean;
  /** Makes the inputs, and queues what must run before the op. */
  make(inputs: Inputs, sizes: Sizes): Workload;
}

/** `checked` of a case whose reference is quick at any lengths: it computes a few elements, or there are not many. */
export const AS_TIMED = (timed: Sizes): Sizes => timed;

/** `checked` of a case whose rows are independent, so that few of them tell as much as all. */
export function fewRows(rows: number): (timed: Sizes) => Sizes {
  return (timed) => ({ ...timed, rows: Math.min(rows, timed.rows) });
}

/** Makes the inputs of a workload on the device, and remembers them. */
export class Inputs {
  readonly device: Device;
  /** Every tensor made so far. */
  readonly tensors: Tensor[] = [];
  #seed: number;

  /** Inputs of one seed are always the same. */
  constructor(device: Device, seed: number) {
    this.device = device;
    this.#seed = seed * 1000;
  }

  #fill(shape: readonly number[], dtype: DType, kind: number, below: number, low = 0, range = 0) {
    const t = empty(this.device, shape, dtype);
    this.device.dispatch(
      fillKernel,
      [t, uniform(t.size, this.#seed++, below, 0, floatBits(low), floatBits(range))],
      gridOf(Math.ceil(t.size / 64)),
      { KIND: kind },
    );
    this.tensors.push(t);
    return t;
  }

  /** Even floats of mean zero and this deviation. */
  floats(shape: readonly number[], deviation = 1): Tensor {
    const half = Math.sqrt(3) * deviation;
    return this.#fill(shape, "f32", 2, 0, -half, 2 * half);
  }

  /** The same, rounded to 16 bits. */
  halves(shape: readonly number[], deviation = 1): Tensor {
    const t = cast(this.floats(shape, deviation), "f16");
    this.tensors.push(t);
    return t;
  }

  /** Even floats in [low, high). */
  between(shape: readonly number[], low: number, high: number): Tensor {
    return this.#fill(shape, "f32", 2, 0, low, high - low);
  }

  /** Random words. */
  bits(shape: readonly number[]): Tensor {
    return this.#fill(shape, "u32", 0, 0);
  }

  /** Whole numbers from 0 to below `below`. */
  integers(shape: readonly number[], below: number): Tensor {
    return this.#fill(shape, "i32", 1, below);
  }

  /** Numbers from the host. */
  data(data: TypedArray, shape: readonly number[] = [data.length]): Tensor {
    const t = tensor(this.device, data, shape);
    this.tensors.push(t);
    return t;
  }

  /** A copy of a tensor as it is now. */
  copy(t: Tensor): Tensor {
    const copy = empty(this.device, t.shape, t.dtype);
    this.device.copy(t, copy);
    this.tensors.push(copy);
    return copy;
  }
}

/** `count` places in `size` elements, spread by a fixed step, with the first and the last. */
export function places(size: number, count: number): number[] {
  if (size <= count) return Array.from({ length: size }, (_, i) => i);
  // A step that shares no factor with most lengths, so that rows, columns and tiles are met at many offsets.
  const step = Math.max(1, Math.floor(size * 0.6180339887));
  const found = new Set([0, size - 1]);
  for (let i = 1; found.size < count && i < 4 * count; i++) found.add(i * step % size);
  return [...found].sort((a, b) => a - b);
}

/** For backward rules that are timed alone: no input has a gradient yet. */
export const NONE_EARLIER: EarlierGradients = { take: () => undefined };

/** A workload that times an op's backward rule, and checks it against central differences of the reference. */
export function backwardOf(options: {
  /** The op's result, computed from tensors of which some require gradients. */
  readonly out: Tensor;
  readonly inputs: readonly Tensor[];
  /** The gradient of `out`. */
  readonly grad: Tensor;
  /** The op's reference in float64. */
  readonly reference: (values: ArrayLike<number>[]) => ArrayLike<number>;
  /** All tensors are so many equal parts that do not depend on each other, and the reference computes one. */
  readonly parts?: number;
}): Workload {
  const { out, inputs, grad, reference, parts = 1 } = options;
  const { node } = out;
  if (!node) throw new TypeError("Cannot time a backward rule: no input requires a gradient");
  const needs = node.inputs.map((input) => input.requiresGrad);
  return {
    run: () => noGrad(() => node.rule(grad, needs, NONE_EARLIER)).filter((g) => g !== null),
    expected: (read) => {
      const values = inputs.map((t) => Float64Array.from(read(t)));
      const g = Float64Array.from(read(grad));
      const weighted = (part: number) => {
        const y = reference(values.map((x) => partOf(x, part, parts)));
        const own = partOf(g, part, parts);
        let total = 0;
        for (let i = 0; i < y.length; i++) total += y[i] * own[i];
        return total;
      };
      return values.filter((_, i) => inputs[i].requiresGrad).map((x) => {
        const at = places(x.length, 12);
        const part = (i: number) => Math.floor(i * parts / x.length);
        return { at, values: at.map((i) => slope(x, i, () => weighted(part(i)))) };
      });
    },
  };
}

/** One of some equal parts of an array, which shares its memory. */
export function partOf(x: Float64Array, part: number, parts: number): Float64Array {
  const length = x.length / parts;
  return x.subarray(part * length, (part + 1) * length);
}

/** The derivative of `f` by `x[i]`. */
export function slope(x: Float64Array, i: number, f: () => number): number {
  const before = x[i];
  const step = 1e-4 * Math.max(1, Math.abs(before));
  x[i] = before + step;
  const above = f();
  x[i] = before - step;
  const below = f();
  x[i] = before;
  return (above - below) / (2 * step);
}
