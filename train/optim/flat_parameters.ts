/**
 * Trainable tensors side by side in one buffer, so that clipping, AdamW and zeroing are one dispatch each.
 *
 * @module
 */
import { eachGradient } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { checkDType } from "../../core/shape.ts";
import { empty, type Tensor, viewOf, zeros } from "../../core/tensor.ts";
import { ADAMW_BLOCK } from "../../kernels/optim/adamw.ts";
import { type FlatPart, gather } from "../../kernels/optim/gather.ts";
import type { Named } from "../nn/module.ts";

/** So many gradients wait at most until they are moved: the more there are, the more memory, the fewer dispatches. */
const PARTS = 24;

/** A parameter and its place in the flat buffer. */
export interface FlatSegment {
  /** Its name, as `model.parameters()` gives it. */
  readonly name: string;
  /** The tensor, whose memory is now a part of the flat buffer. */
  readonly tensor: Tensor;
  /** The index of its first number in the flat buffer: a multiple of 64, which is also WebGPU's alignment of bindings. */
  readonly at: number;
}

/** The parameters of a training run, moved into one buffer, with a gradient buffer of the same layout. */
export class FlatParameters {
  /** Where they live. */
  readonly device: Device;
  /** The parameters in their order. */
  readonly segments: readonly FlatSegment[];
  /** f32 [size]: all weights; between two parameters up to 63 zeros. */
  readonly weights: Tensor;
  /** f32 [size]: the sum of the gradients that were added since the last `clear`. */
  readonly grad: Tensor;
  readonly #places: ReadonlyMap<Tensor, number>;

  /**
   * Moves parameters into a flat buffer. They keep their values, and every handle on them stays valid.
   *
   * @param parameters f32 tensors with `requiresGrad`
   * @throws {TypeError} if there is none, or one is not f32
   * @throws {RangeError} if they are too many for a buffer of this device
   */
  constructor(parameters: Iterable<Named<Tensor>>) {
    const segments: FlatSegment[] = [];
    let size = 0;
    for (const [name, tensor] of parameters) {
      checkDType("train", tensor, "f32", `"${name}"`);
      segments.push({ name, tensor, at: size });
      size += Math.ceil(tensor.size / ADAMW_BLOCK) * ADAMW_BLOCK;
    }
    if (segments.length === 0) {
      throw new TypeError(
        'Cannot train: the model has no trainable parameter. Add an adapter with addLora, unmerge() one that is merged, or load it with trainable: "all"',
      );
    }
    this.segments = segments;
    this.#places = new Map(segments.map(({ tensor, at }) => [tensor, at]));
    const { device } = segments[0].tensor;
    this.device = device;
    const most = device.gpu.limits.maxStorageBufferBindingSize / 4;
    if (size > most) {
      throw new RangeError(
        `Cannot train ${size} parameters: a buffer of this device holds ${most}. Train an adapter instead of all weights, or one of a lower rank`,
      );
    }
    this.weights = device.keep(zeros(device, [size]));
    this.grad = device.keep(zeros(device, [size]));
    const old = new Set<Tensor["storage"]>();
    for (const { tensor, at } of segments) {
      device.copy(tensor, viewOf(this.weights, tensor.shape, "f32", 4 * at));
      old.add(tensor.storage);
      tensor.storage = this.weights.storage;
      tensor.offset = 4 * at;
    }
    for (const storage of old) device.free(storage);
  }

  /** The numbers in the flat buffer, the zeros between parameters included. */
  get size(): number {
    return this.weights.size;
  }

  /** Adds the gradients of `loss` to `grad`, a few at a time as the backward pass finds them. */
  addGradients(loss: Tensor): void {
    const open: FlatPart[] = [];
    const put = () => {
      gather(this.grad, open, true);
      for (const { grad } of open) this.device.free(grad.storage);
      open.length = 0;
    };
    eachGradient(loss, (leaf, grad) => {
      const at = this.#places.get(leaf);
      if (at === undefined) return;
      open.push({ grad, at });
      if (open.length === PARTS) put();
    });
    put();
  }

  /** A buffer of the same layout, not set. */
  like(): Tensor {
    return this.device.keep(empty(this.device, [this.size]));
  }

  /** Frees the gradients; the parameters stay where they are. */
  dispose(): void {
    this.grad.dispose();
  }
}
