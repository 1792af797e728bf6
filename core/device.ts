/**
 * The device: memory, compiled kernels, and the list of work that waits for the next flush.
 *
 * @module
 */
import { type AdapterDescription, findAdapter, noAdapterError, openAdapter } from "./adapter.ts";
import { BindGroups, type Binding, type Bound, bound } from "./binding.ts";
import {
  blocksOf,
  type Command,
  encode,
  type Grid,
  markWrites,
  partsOf,
  type PassObserver,
} from "./commands.ts";
import { type Constants, type Kernel, type Pipeline, Pipelines } from "./kernel.ts";
import { type MemoryUse, Pool, Storage } from "./pool.ts";
import type { Recorder } from "./capture.ts";
import { refusal } from "./refusal.ts";
import { Scopes } from "./scopes.ts";
import type { Tensor, TypedArray } from "./tensor.ts";
import { Mirrors } from "./texels.ts";

/** Work that a device has done since it was opened. */
export interface DeviceCounters {
  /** Dispatches encoded. */
  dispatches: number;
  /** Submissions. */
  submits: number;
  /** Bind groups made: 0 per step once a step has run before. */
  bindGroups: number;
  /** Kernels compiled. */
  pipelines: number;
  /** The host's time for compiling, in milliseconds. */
  compileMilliseconds: number;
}

/** So many commands wait at most before the GPU gets them. */
const LONGEST_LIST = 512;

/** Bytes of one host write; a larger one is cut, so that staging memory stays small. */
const LARGEST_WRITE = 64 << 20;

/** The news that the device was lost comes within this time after a read has failed. */
const NEWS_MILLISECONDS = 100;

/**
 * A GPU, or software Vulkan, opened by `openDevice`. Ops queue work on it; `flush`, or a read, starts that work.
 *
 * @example Count what a computation costs
 * ```ts
 * import { add, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2]));
 * console.log(await add(x, x).read(), device.counters.dispatches, device.memory.peak);
 * ```
 */
export class Device {
  /** The WebGPU device underneath. */
  readonly gpu: GPUDevice;
  /** What is known about the adapter. */
  readonly adapter: AdapterDescription;
  /** @ignore The recording that runs now, set by `capture`. */
  recorder: Recorder | null = null;
  /** @ignore Times each dispatch when a profiler sets it. */
  observer: PassObserver | null = null;
  /** @ignore Physical buffers. */
  readonly pool: Pool;

  readonly #pipelines: Pipelines;
  readonly #mirrors: Mirrors;
  readonly #groups: BindGroups;
  readonly #scopes = new Scopes((storage) => this.free(storage));
  #pending: Command[] = [];
  #epoch = 1;
  #dispatches = 0;
  #submits = 0;
  #fault: Error | null = null;
  #closed = false;

  /** @ignore Use `openDevice`. */
  constructor(gpu: GPUDevice, adapter: AdapterDescription) {
    this.gpu = gpu;
    this.adapter = adapter;
    this.pool = new Pool(gpu);
    this.#pipelines = new Pipelines(gpu, (fault) => this.#fault ??= fault);
    this.#mirrors = new Mirrors(gpu);
    this.#groups = new BindGroups(gpu, this.#mirrors);
    gpu.addEventListener("uncapturederror", (event) => {
      event.preventDefault();
      this.#fault ??= refusal((event as GPUUncapturedErrorEvent).error);
    });
    gpu.lost.then((info) => {
      if (this.#closed) return;
      this.#fault = new Error(
        `Cannot go on: the GPU device was lost (${info.message || info.reason}). ` +
          `Files already written are whole; start again, with a smaller batch if memory ran out`,
      );
    });
  }

  /** Memory held by tensors: now, at most, and allocated in all. Texture copies on software adapters count as reserved. */
  get memory(): MemoryUse {
    const use = this.pool.use;
    return { ...use, reserved: use.reserved + this.#mirrors.bytes };
  }

  /** Work done so far. */
  get counters(): DeviceCounters {
    return {
      dispatches: this.#dispatches,
      submits: this.#submits,
      bindGroups: this.#groups.made,
      pipelines: this.#pipelines.count,
      compileMilliseconds: this.#pipelines.milliseconds,
    };
  }

  /**
   * Queues a kernel. Kernels call this; nothing runs until `flush`.
   *
   * @param kernel what runs
   * @param bindings what it reads and writes
   * @param grid how many workgroups
   * @param constants values for its `override` declarations
   * @param flops its floating-point operations, for profiles; kernels that are bound by memory need not count them
   */
  dispatch(
    kernel: Kernel,
    bindings: readonly Binding[],
    grid: Grid,
    constants?: Constants,
    flops = 0,
  ): void {
    if (bindings.length !== kernel.accesses.length) {
      throw new RangeError(
        `Cannot run kernel "${kernel.label}": it has ${kernel.accesses.length} bindings, got ${bindings.length}`,
      );
    }
    if (grid[0] === 0 || grid[1] === 0 || grid[2] === 0) return;
    const pipeline = this.#pipelines.get(kernel, constants);
    const own = bindings.map(bound);
    const entry = { kind: "dispatch", pipeline, bindings: own, grid, flops } as const;
    if (this.recorder) this.recorder.add(entry);
    else this.enqueue(this.#groups.resolve(entry));
  }

  /** Queues a copy of a tensor's bytes into another of the same size. */
  copy(from: Tensor, to: Tensor): void {
    if (from.bytes !== to.bytes) {
      throw new RangeError(
        `Cannot copy ${from.bytes} bytes of a tensor into ${to.bytes} bytes`,
      );
    }
    const bytes = Math.ceil(from.bytes / 4) * 4;
    const entry = { kind: "copy", from: bound(from), to: bound(to), bytes } as const;
    if (this.recorder) this.recorder.add(entry);
    else this.enqueue(this.#groups.resolve(entry));
  }

  /** Queues setting a tensor to zero. */
  clear(t: Tensor): void {
    const entry = { kind: "clear", target: bound(t) } as const;
    if (this.recorder) this.recorder.add(entry);
    else this.enqueue(this.#groups.resolve(entry));
  }

  /** @ignore How many buffers a kernel may have. */
  get mostBuffers(): number {
    return this.gpu.limits.maxStorageBuffersPerShaderStage;
  }

  /** @ignore A compiled kernel. */
  pipeline(kernel: Kernel, constants?: Constants): Pipeline {
    return this.#pipelines.get(kernel, constants);
  }

  /** @ignore Runs `body` at once where a step is being recorded: for what is made once and kept. */
  unrecorded<T>(body: () => T): T {
    const { recorder } = this;
    this.recorder = null;
    try {
      return body();
    } finally {
      this.recorder = recorder;
    }
  }

  /** @ignore Turns recorded work into commands, once its storages have blocks. */
  resolve(entry: Parameters<BindGroups["resolve"]>[0]): Command[] {
    return this.#groups.resolve(entry);
  }

  /** @ignore Appends commands to the pending list. */
  enqueue(commands: readonly Command[]): void {
    for (const command of commands) {
      // A step that is cut goes to the GPU in pieces, so that it begins before the last one is encoded.
      if (command.kind === "cut" && this.#pending.length >= LONGEST_LIST) {
        this.flush();
        continue;
      }
      if (!markWrites(command)) continue;
      for (const block of blocksOf(command)) block.epoch = this.#epoch;
      if (command.kind === "dispatch") this.#dispatches++;
      this.#pending.push(command);
    }
    if (this.#pending.length >= LONGEST_LIST) this.flush();
  }

  /** Starts all queued work, and returns without waiting for it. */
  flush(): void {
    this.check();
    if (this.#pending.length === 0) return;
    const buffers = Array.from(partsOf(this.#pending), (commands) => {
      const encoder = this.gpu.createCommandEncoder();
      encode(encoder, commands, this.observer);
      return encoder.finish();
    });
    this.gpu.queue.submit(buffers);
    this.#pending = [];
    this.#epoch++;
    this.#submits++;
  }

  /** Starts all queued work and waits until it is done. At least 10 ms in Deno. */
  async finish(): Promise<void> {
    this.flush();
    await this.gpu.queue.onSubmittedWorkDone();
    this.check();
  }

  /** Throws what went wrong on the GPU, if anything did. */
  check(): void {
    if (this.#fault) throw this.#fault;
  }

  /** @ignore Memory for a tensor; `uploaded` memory is real even inside `capture`. */
  allocate(bytes: number, purpose: "computed" | "uploaded" = "computed"): Storage {
    if (this.recorder && purpose === "computed") return this.recorder.allocate(bytes);
    this.check();
    const storage = new Storage(bytes, this.pool.acquire(bytes));
    if (this.recorder) this.recorder.own(storage);
    else this.#scopes.add(storage);
    return storage;
  }

  /** @ignore Gives memory back; freeing twice does nothing. */
  free(storage: Storage): void {
    if (!storage.block || this.recorder) return;
    this.#scopes.forget(storage);
    this.pool.release(storage.block);
    storage.block = null;
  }

  /**
   * Runs `body` and frees every tensor made in it, except those it returns (alone, in an array, or in an object).
   *
   * @example
   * ```ts
   * import { add, openDevice, tensor } from "@nibble/nibble";
   *
   * using device = await openDevice();
   * const x = tensor(device, new Float32Array([1, 2]));
   * const y = device.scope(() => add(add(x, x), x)); // the inner sum is freed
   * console.log(await y.read()); // Float32Array(2) [ 3, 6 ]
   * ```
   */
  scope<T>(body: () => T): T {
    return this.#scopes.run(body);
  }

  /** Takes a tensor out of every scope: it lives until `dispose`. */
  keep<T extends Tensor>(t: T): T {
    this.#scopes.forget(t.storage);
    return t;
  }

  /** Writes numbers from the host into a tensor, after all work queued before. */
  write(t: Tensor, data: TypedArray | Uint8Array): void {
    const block = t.storage.block;
    if (!block) {
      throw new TypeError(
        this.recorder
          ? "Cannot write a computed tensor inside capture(): pass what changes per step as an input"
          : "Cannot write to a tensor that was freed",
      );
    }
    if (data.byteLength > Math.ceil(t.bytes / 4) * 4) {
      throw new RangeError(`Cannot write ${data.byteLength} bytes to a tensor of ${t.bytes}`);
    }
    if (block.epoch === this.#epoch) this.flush();
    block.version++;
    let bytes = new Uint8Array(data.buffer as ArrayBuffer, data.byteOffset, data.byteLength);
    if (bytes.length % 4 !== 0) {
      const padded = new Uint8Array(Math.ceil(bytes.length / 4) * 4);
      padded.set(bytes);
      bytes = padded;
    }
    for (let at = 0; at < bytes.length; at += LARGEST_WRITE) {
      const part = bytes.subarray(at, Math.min(at + LARGEST_WRITE, bytes.length));
      this.gpu.queue.writeBuffer(block.gpu, t.offset + at, part);
      if (bytes.length > LARGEST_WRITE) this.gpu.queue.submit([]);
    }
  }

  /** @ignore Copies a tensor's bytes to the host; use `Tensor.read`. */
  async read(t: Tensor): Promise<ArrayBuffer> {
    if (this.recorder) {
      throw new TypeError(
        "Cannot read a tensor inside capture(): return it from the step instead",
      );
    }
    const block = blockOf(bound(t));
    const bytes = Math.ceil(t.bytes / 4) * 4;
    this.flush();
    if (bytes === 0) return new ArrayBuffer(0);
    const staging = this.gpu.createBuffer({
      size: bytes,
      usage: GPUBufferUsage.MAP_READ | GPUBufferUsage.COPY_DST,
    });
    const encoder = this.gpu.createCommandEncoder();
    encoder.copyBufferToBuffer(block.gpu, t.offset, staging, 0, bytes);
    this.gpu.queue.submit([encoder.finish()]);
    try {
      await staging.mapAsync(GPUMapMode.READ);
    } catch (error) {
      // The refusal comes before the news that the device was lost, which says what to do.
      await Promise.race([
        this.gpu.lost,
        new Promise((done) => setTimeout(done, NEWS_MILLISECONDS)),
      ]);
      this.check();
      throw error;
    }
    this.check();
    const copy = staging.getMappedRange().slice(0);
    staging.destroy();
    return copy;
  }

  /** Frees the buffers that no tensor holds. */
  trim(): void {
    this.flush();
    const gone = this.pool.trim();
    this.#mirrors.drop(gone);
    this.#groups.clear();
  }

  /** Closes the device; its tensors are gone. */
  [Symbol.dispose](): void {
    this.#closed = true;
    this.gpu.destroy();
  }
}

/** The block that a binding lies in. */
function blockOf(b: Bound): NonNullable<Storage["block"]> {
  if (b.kind !== "uniform" && b.storage.block) return b.storage.block;
  throw new TypeError("Cannot read a tensor that was freed: its scope ended, or it was disposed");
}

/**
 * Opens the best adapter of this machine. On Linux it first sets `DENO_WEBGPU_BACKEND=vulkan` and `XDG_RUNTIME_DIR=/tmp` where
 * they are not set (with `--allow-env`).
 *
 * @returns the device; write `using device = await openDevice()` to close it at the end of the block
 * @throws {Error} if there is no adapter; the message names the command that installs a driver
 *
 * @example
 * ```ts
 * import { openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * console.log(device.adapter.name, device.adapter.type);
 * ```
 */
export async function openDevice(): Promise<Device> {
  const adapter = await findAdapter();
  if (!adapter) throw noAdapterError();
  const { gpu, description } = await openAdapter(adapter);
  return new Device(gpu, description);
}
