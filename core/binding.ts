/**
 * What a kernel is called with, and the bind groups made from it: one for each pipeline and set of buffers, kept.
 *
 * @module
 */
import type { Command, Grid } from "./commands.ts";
import type { Pipeline } from "./kernel.ts";
import { type Block, roundBytes, type Storage } from "./pool.ts";
import { LESS_AT_A_TIME } from "./refusal.ts";
import type { Tensor } from "./tensor.ts";
import type { Mirrors, TexelKind } from "./texels.ts";

/** A tensor that the kernel reads as texels (software adapters). */
export interface Texels {
  /** Tells bindings apart. */
  readonly kind: "texels";
  /** What is read. */
  readonly tensor: Tensor;
  /** How the kernel declares it. */
  readonly format: TexelKind;
}

/** Small numbers that the kernel reads from a uniform buffer: lengths, scales. Words of 32 bits. */
export interface Uniform {
  /** Tells bindings apart. */
  readonly kind: "uniform";
  /** Unsigned words of 32 bits, in the order of the WGSL struct. */
  readonly words: readonly number[];
}

/** What a kernel can be called with. */
export type Binding = Tensor | Texels | Uniform;

/** Binds a tensor as texels. */
export function texels(tensor: Tensor, format: TexelKind = "f32"): Texels {
  return { kind: "texels", tensor, format };
}

/** Binds whole numbers as a uniform; pass a float through `floatBits`. */
export function uniform(...words: number[]): Uniform {
  return { kind: "uniform", words };
}

const scratch = new DataView(new ArrayBuffer(4));

/** The bits of a 32-bit float, as a whole number for `uniform`. */
export function floatBits(value: number): number {
  scratch.setFloat32(0, value);
  return scratch.getUint32(0);
}

/** A binding as it is recorded: the storage, not the tensor, whose storage may be moved later. */
export type Bound =
  | { kind: "buffer"; storage: Storage; offset: number; bytes: number }
  | { kind: "texels"; storage: Storage; offset: number; bytes: number; format: TexelKind }
  | Uniform;

/** A range of a storage. */
export type BoundBuffer = Extract<Bound, { kind: "buffer" }>;

/** Work that is recorded before its storages have blocks. */
export type Entry =
  | { kind: "dispatch"; pipeline: Pipeline; bindings: readonly Bound[]; grid: Grid; flops: number }
  | { kind: "copy"; from: BoundBuffer; to: BoundBuffer; bytes: number }
  | { kind: "clear"; target: BoundBuffer };

/** The recorded form of a binding. */
export function bound(binding: Tensor): BoundBuffer;
export function bound(binding: Binding): Bound;
export function bound(binding: Binding): Bound {
  if ("kind" in binding) {
    if (binding.kind === "uniform") return binding;
    const { storage, offset, bytes } = binding.tensor;
    return { kind: "texels", storage, offset, bytes, format: binding.format };
  }
  const { storage, offset, bytes } = binding;
  return { kind: "buffer", storage, offset, bytes };
}

function block(storage: Storage): Block {
  if (storage.block) return storage.block;
  throw new TypeError("Cannot use a tensor that was freed: its scope ended, or it was disposed");
}

/** Bytes of all ranges, each once: what a kernel has no use for is bound to something that is bound already. */
function bytesOf(bindings: readonly Bound[]): number {
  let total = 0;
  for (const [index, binding] of bindings.entries()) {
    if (binding.kind === "uniform") continue;
    const { storage, offset, bytes } = binding;
    const isAgain = bindings.slice(0, index).some((other) =>
      other.kind !== "uniform" && other.storage === storage && other.offset === offset
    );
    if (!isAgain) total += bytes;
  }
  return total;
}

/** So many are kept; eager work over ever new shapes would make ever more. */
const MOST_GROUPS = 20_000;

/** Makes bind groups, each once. */
export class BindGroups {
  readonly #gpu: GPUDevice;
  readonly #mirrors: Mirrors;
  readonly #groups = new Map<string, GPUBindGroup>();
  readonly #uniforms = new Map<string, { id: number; buffer: GPUBuffer }>();
  #nextUniform = 0;
  /** How many were made. */
  made = 0;

  constructor(gpu: GPUDevice, mirrors: Mirrors) {
    this.#gpu = gpu;
    this.#mirrors = mirrors;
  }

  /** Forgets all groups, so that their buffers can go. Plans keep their own. */
  clear(): void {
    this.#groups.clear();
  }

  /** The commands of an entry: copies to textures that it needs first, then itself. */
  resolve(entry: Entry): Command[] {
    if (entry.kind === "copy") {
      return [{
        kind: "copy",
        from: block(entry.from.storage),
        fromOffset: entry.from.offset,
        to: block(entry.to.storage),
        toOffset: entry.to.offset,
        bytes: entry.bytes,
      }];
    }
    if (entry.kind === "clear") {
      const { storage, offset, bytes } = entry.target;
      const target = block(storage);
      return [{
        kind: "clear",
        block: target,
        offset,
        bytes: Math.min(roundBytes(bytes), target.bytes - offset),
      }];
    }
    return this.#resolveDispatch(entry);
  }

  #resolveDispatch(entry: Extract<Entry, { kind: "dispatch" }>): Command[] {
    const { pipeline, bindings, grid, flops } = entry;
    const commands: Command[] = [];
    const uses: Block[] = [];
    const writes: Block[] = [];
    const resources: GPUBindingResource[] = [];
    let key = String(pipeline.id);
    for (let index = 0; index < bindings.length; index++) {
      const binding = bindings[index];
      if (binding.kind === "uniform") {
        const { id, buffer } = this.#uniform(binding.words);
        key += `,u${id}`;
        resources.push({ buffer });
        continue;
      }
      const target = block(binding.storage);
      uses.push(target);
      if (binding.kind === "texels") {
        const mirror = this.#mirrors.get(target, binding.offset, binding.bytes, binding.format);
        commands.push({ kind: "mirror", mirror });
        key += `,t${mirror.id}`;
        resources.push(mirror.view);
        continue;
      }
      const size = Math.min(roundBytes(binding.bytes), target.bytes - binding.offset);
      key += `,${target.id}:${binding.offset}:${size}`;
      resources.push({ buffer: target.gpu, offset: binding.offset, size });
      if (pipeline.kernel.accesses[index] === "write") writes.push(target);
    }
    const group = this.#group(key, pipeline, resources);
    const bytes = bytesOf(bindings);
    commands.push({ kind: "dispatch", pipeline, group, grid, uses, writes, bytes, flops });
    return commands;
  }

  /** WebGPU would refuse it too, but only later, and with it all that comes after. */
  #checkSize({ kernel }: Pipeline, bytes: number): void {
    const most = this.#gpu.limits.maxStorageBufferBindingSize;
    if (bytes <= most) return;
    throw new RangeError(
      `Cannot run "${kernel.label}" on ${bytes} bytes: on this adapter a kernel sees ${most} of a buffer; ${LESS_AT_A_TIME}`,
    );
  }

  #group(key: string, pipeline: Pipeline, resources: GPUBindingResource[]): GPUBindGroup {
    let group = this.#groups.get(key);
    if (group) return group;
    for (const resource of resources) {
      if ("size" in resource) this.#checkSize(pipeline, resource.size!);
    }
    if (this.#groups.size >= MOST_GROUPS) this.#groups.clear();
    group = this.#gpu.createBindGroup({
      label: pipeline.kernel.label,
      layout: pipeline.layout,
      entries: resources.map((resource, binding) => ({ binding, resource })),
    });
    this.made++;
    this.#groups.set(key, group);
    return group;
  }

  /** A uniform buffer with these words, made once for each content, never written again. */
  #uniform(words: readonly number[]): { id: number; buffer: GPUBuffer } {
    const key = words.join();
    let entry = this.#uniforms.get(key);
    if (entry) return entry;
    const data = new Uint32Array(Math.ceil(words.length / 4) * 4);
    data.set(words);
    const buffer = this.#gpu.createBuffer({
      size: data.byteLength,
      usage: GPUBufferUsage.UNIFORM | GPUBufferUsage.COPY_DST,
    });
    this.#gpu.queue.writeBuffer(buffer, 0, data);
    entry = { id: this.#nextUniform++, buffer };
    this.#uniforms.set(key, entry);
    return entry;
  }
}
