/**
 * Where GPU memory comes from: physical buffers by exact size. Of those that are free, the one that was made first is handed out, so
 * that a step that allocates in the same order gets the same buffers, and with them the same bind groups, in whatever order the
 * last one gave them back.
 *
 * @module
 */
import { LESS_AT_A_TIME } from "./refusal.ts";

/** A buffer on the GPU, and what must be known to share it. */
export interface Block {
  /** Unique in its device: the name of this buffer in memo keys. */
  readonly id: number;
  readonly bytes: number;
  readonly gpu: GPUBuffer;
  /** Counts the writes to this buffer, so that copies of it (texels.ts) know when they are stale. */
  version: number;
  /** The last flush that used this buffer: a host write must wait for it. */
  epoch: number;
}

/** A range of GPU memory that a tensor lives in. Inside `capture` it has no block until the plan gives it one. */
export class Storage {
  /** The physical buffer, or `null` while a recording is planned, or after it was freed. */
  block: Block | null;
  readonly bytes: number;

  constructor(bytes: number, block: Block | null) {
    this.bytes = bytes;
    this.block = block;
  }
}

/** What a device has allocated, in bytes. */
export interface MemoryUse {
  /** Held by tensors now. */
  live: number;
  /** The most that was ever held at once. */
  peak: number;
  /** Allocated on the device, held or free for reuse. */
  reserved: number;
}

/** Sizes are rounded up to this, so that `array<vec4<f32>>` covers a tensor's last elements. */
const GRANULE = 16;

/** Rounds a number of bytes up to what is allocated for it. */
export function roundBytes(bytes: number): number {
  return Math.max(GRANULE, Math.ceil(bytes / GRANULE) * GRANULE);
}

/** Hands out buffers and takes them back. */
export class Pool {
  readonly #gpu: GPUDevice;
  /** By size; the one that was made first is the last of its list. */
  readonly #free = new Map<number, Block[]>();
  #nextId = 0;
  #live = 0;
  #peak = 0;
  #reserved = 0;

  constructor(gpu: GPUDevice) {
    this.#gpu = gpu;
  }

  /** Memory now in use, its peak, and all that was allocated. */
  get use(): MemoryUse {
    return { live: this.#live, peak: this.#peak, reserved: this.#reserved };
  }

  /** Begins a new peak measurement at what is live now. */
  resetPeak(): void {
    this.#peak = this.#live;
  }

  /** A buffer of exactly `roundBytes(bytes)`. Its contents are whatever was left there. */
  acquire(bytes: number): Block {
    const size = roundBytes(bytes);
    const block = this.#free.get(size)?.pop() ?? this.#create(size);
    this.#live += size;
    this.#peak = Math.max(this.#peak, this.#live);
    return block;
  }

  /** Gives a buffer back for reuse. */
  release(block: Block): void {
    this.#live -= block.bytes;
    const list = this.#free.get(block.bytes) ?? [];
    this.#free.set(block.bytes, list);
    // Mostly near the end: what is in use are the oldest.
    let at = list.length;
    while (at > 0 && list[at - 1].id < block.id) at--;
    list.splice(at, 0, block);
  }

  /** Destroys every free buffer, and returns the ids that are gone. */
  trim(): Set<number> {
    const gone = new Set<number>();
    for (const list of this.#free.values()) {
      for (const block of list) {
        gone.add(block.id);
        this.#reserved -= block.bytes;
        block.gpu.destroy();
      }
    }
    this.#free.clear();
    return gone;
  }

  #create(size: number): Block {
    if (size > this.#gpu.limits.maxBufferSize) {
      throw new RangeError(
        `Cannot allocate ${size} bytes: this adapter's largest buffer has ${this.#gpu.limits.maxBufferSize} bytes; ${LESS_AT_A_TIME}`,
      );
    }
    const gpu = this.#gpu.createBuffer({
      size,
      usage: GPUBufferUsage.STORAGE | GPUBufferUsage.COPY_SRC | GPUBufferUsage.COPY_DST,
    });
    this.#reserved += size;
    return { id: this.#nextId++, bytes: size, gpu, version: 0, epoch: 0 };
  }
}
