/**
 * Small tensors that never change, one of each for a device.
 *
 * @module
 */
import type { Device } from "./device.ts";
import { type Tensor, tensor, type TypedArray } from "./tensor.ts";

const constants = new WeakMap<Device, Map<string, Tensor>>();

/** The device's constant of this name; `make` gives its elements the first time. It outlives every scope and recording. */
export function constant(device: Device, name: string, make: () => TypedArray): Tensor {
  let own = constants.get(device);
  if (!own) constants.set(device, own = new Map());
  let t = own.get(name);
  if (!t) {
    t = device.unrecorded(() => device.keep(tensor(device, make())));
    own.set(name, t);
  }
  return t;
}
