/**
 * Activations in 16 bits: what a forward pass keeps for the backward pass can be rounded to 16-bit floats, which halves its memory.
 * Both passes compute in 32 bits; only what is kept between them is rounded.
 *
 * @module
 */
import { convert } from "./convert.ts";
import type { Storage } from "./pool.ts";
import { type Tensor, viewOf } from "./tensor.ts";

/** What activations are kept in between the forward and the backward pass. */
export type ActivationType = "f32" | "f16";

let active = false;

/** The halves of a tensor, and where it lies in its storage: views of one shape or another share them. */
interface Kept {
  readonly offset: number;
  readonly half: Tensor;
}

const halves = new WeakMap<Storage, Kept>();

/** Runs `body` with activations kept in 16 bits, or in 32. */
export function keepingHalves<T>(on: boolean, body: () => T): T {
  const before = active;
  active = on;
  try {
    return body();
  } finally {
    active = before;
  }
}

/** In a forward pass: rounds what was computed, if activations are kept in 16 bits. Leaves stay as they are; they are there anyway. */
export function keepHalf(t: Tensor): void {
  if (!active || !t.node || t.dtype !== "f32" || halfOf(t)) return;
  halves.set(t.storage, { offset: t.offset, half: convert(t, "f16", true) });
}

/** The halves that were kept of `t`, or null. */
export function halfOf(t: Tensor): Tensor | null {
  const found = halves.get(t.storage);
  return found && found.offset === t.offset && found.half.size === t.size ? found.half : null;
}

/** In a backward pass: `t` from its halves. `wide` has what was widened already, by its halves. */
export function fromHalf(t: Tensor, half: Tensor, wide: Map<Tensor, Tensor>): Tensor {
  let found = wide.get(half);
  if (!found) wide.set(half, found = convert(half, "f32"));
  return viewOf(found, t.shape);
}
