/**
 * The tensor: a handle on GPU memory, with a shape and a data type, and no op methods. Ops are functions in kernels/.
 *
 * @module
 */
import type { Node } from "./autograd.ts";
import type { Device } from "./device.ts";
import type { Storage } from "./pool.ts";
import { checkShape, showShape, sizeOf } from "./shape.ts";

/** What a tensor holds: 32- or 16-bit floats, signed or unsigned 32-bit integers. */
export type DType = "f32" | "f16" | "i32" | "u32";

/** The typed arrays that hold a tensor's elements on the host. */
export type TypedArray = Float32Array | Float16Array | Int32Array | Uint32Array;

/** Bytes of one element. */
export const BYTES: Readonly<Record<DType, number>> = { f32: 4, f16: 2, i32: 4, u32: 4 };

/** Views raw bytes as the typed array of `dtype`. */
export function viewAs(dtype: DType, bytes: ArrayBuffer, length?: number): TypedArray {
  switch (dtype) {
    case "f32":
      return new Float32Array(bytes, 0, length);
    case "f16":
      return new Float16Array(bytes, 0, length);
    case "i32":
      return new Int32Array(bytes, 0, length);
    case "u32":
      return new Uint32Array(bytes, 0, length);
  }
}

/** The data type that a typed array's elements have on the GPU. */
export function dtypeOf(data: TypedArray): DType {
  if (data instanceof Float32Array) return "f32";
  if (data instanceof Float16Array) return "f16";
  if (data instanceof Int32Array) return "i32";
  if (data instanceof Uint32Array) return "u32";
  throw new TypeError(
    `Cannot make a tensor from ${
      Object.prototype.toString.call(data)
    }: pass a Float32Array, Float16Array, Int32Array or Uint32Array`,
  );
}

/**
 * An array of numbers on a device. Row-major: the last axis is contiguous.
 *
 * @example Read a tensor back
 * ```ts
 * import { openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4, 5, 6]), [2, 3]);
 * console.log(x.shape, x.dtype, await x.read()); // [ 2, 3 ] f32 Float32Array(6) [ 1, 2, 3, 4, 5, 6 ]
 * ```
 */
export class Tensor {
  /** Where it lives. */
  readonly device: Device;
  /** The length of every axis; `[]` is a scalar. */
  readonly shape: readonly number[];
  /** What it holds. */
  readonly dtype: DType;
  /** @ignore The memory it lies in. A flat parameter buffer moves its tensors here (see `FlatParameters`). */
  storage: Storage;
  /** Where it begins in `storage`, in bytes. */
  offset: number;
  /** Whether `backward` should leave a gradient in `grad`. */
  requiresGrad = false;
  /** The gradient that `backward` left, of the same shape; `null` before. */
  grad: Tensor | null = null;
  /** How this tensor was computed, if a gradient must flow through it. */
  node: Node | null = null;
  /** @ignore How to compute it once more for the backward pass, instead of keeping it; see `recomputable`. */
  again: (() => Tensor) | null = null;

  /** @ignore Tensors are made by `tensor`, `empty` and the ops. */
  constructor(
    device: Device,
    storage: Storage,
    shape: readonly number[],
    dtype: DType = "f32",
    offset = 0,
  ) {
    this.device = device;
    this.storage = storage;
    this.shape = shape;
    this.dtype = dtype;
    this.offset = offset;
  }

  /** The number of elements. */
  get size(): number {
    return sizeOf(this.shape);
  }

  /** The number of bytes of its elements. */
  get bytes(): number {
    return this.size * BYTES[this.dtype];
  }

  /**
   * Copies the elements to the host. A read takes at least 10 ms in Deno, so never do it in a loop over steps or tokens; several
   * reads at once (`Promise.all`) take no longer than one.
   *
   * @throws {TypeError} inside `capture`, where nothing has run yet
   */
  async read(): Promise<TypedArray> {
    const bytes = await this.device.read(this);
    return viewAs(this.dtype, bytes, this.size);
  }

  /** Reads the one element of a tensor of size 1. */
  async item(): Promise<number> {
    if (this.size !== 1) {
      throw new RangeError(
        `Cannot read ${
          showShape(this.shape)
        } as one number: it has ${this.size} elements, use read()`,
      );
    }
    return (await this.read())[0];
  }

  /** Gives its memory back at once, instead of at the end of the scope. Views of it become invalid. */
  dispose(): void {
    this.device.free(this.storage);
  }

  /** `using t = …` gives the memory back at the end of the block. */
  [Symbol.dispose](): void {
    this.dispose();
  }
}

/**
 * Makes a tensor from numbers on the host.
 *
 * @param device where it shall live
 * @param data its elements, row-major; Float32Array gives f32, Float16Array f16, Int32Array i32, Uint32Array u32
 * @param shape its shape; without it, one axis
 * @throws {RangeError} if the shape does not have as many elements as `data`
 *
 * @example
 * ```ts
 * import { openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const ids = tensor(device, new Int32Array([5, 6, 7]), [1, 3]);
 * console.log(ids.dtype, ids.size); // i32 3
 * ```
 */
export function tensor(
  device: Device,
  data: TypedArray,
  shape: readonly number[] = [data.length],
): Tensor {
  checkShape(shape);
  if (sizeOf(shape) !== data.length) {
    throw new RangeError(
      `Cannot shape ${data.length} numbers as ${showShape(shape)}: it holds ${sizeOf(shape)}`,
    );
  }
  const dtype = dtypeOf(data);
  const t = new Tensor(device, device.allocate(data.byteLength, "uploaded"), shape, dtype);
  device.write(t, data);
  return t;
}

/**
 * Makes a tensor whose elements are not set: what an op writes its result to.
 *
 * @param device where it shall live
 * @param shape its shape
 * @param dtype what it holds
 */
export function empty(device: Device, shape: readonly number[], dtype: DType = "f32"): Tensor {
  checkShape(shape);
  return new Tensor(device, device.allocate(sizeOf(shape) * BYTES[dtype]), shape, dtype);
}

/**
 * Makes a tensor of zeros.
 *
 * @param device where it shall live
 * @param shape its shape
 * @param dtype what it holds
 */
export function zeros(device: Device, shape: readonly number[], dtype: DType = "f32"): Tensor {
  const t = empty(device, shape, dtype);
  device.clear(t);
  return t;
}

/** A copy that outlives the scope it is made in: who made it frees it. */
export function keptCopy(t: Tensor): Tensor {
  const copy = t.device.keep(empty(t.device, t.shape, t.dtype));
  t.device.copy(t, copy);
  return copy;
}

/** A tensor of another shape over the same memory and history. No data moves; gradients need `reshape` instead. */
export function viewOf(
  t: Tensor,
  shape: readonly number[],
  dtype: DType = t.dtype,
  offset = 0,
): Tensor {
  return new Tensor(t.device, t.storage, shape, dtype, t.offset + offset);
}
