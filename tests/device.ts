/** The device of a test file, opened once, and seeded data. */
import { type Device, openDevice } from "../core/device.ts";
import { Random } from "../core/random.ts";
import { type Tensor, tensor } from "../core/tensor.ts";
import { sizeOf } from "../core/shape.ts";

/** One device for each test file: Deno runs every file in a context of its own. */
export const device: Device = await openDevice();

/** Normal numbers from a seed. */
export function randomNumbers(size: number, seed: number, deviation = 1): Float32Array {
  const random = new Random(seed);
  return Float32Array.from({ length: size }, () => random.normal() * deviation);
}

/** A tensor of normal numbers. */
export function randomTensor(shape: readonly number[], seed: number, deviation = 1): Tensor {
  return tensor(device, randomNumbers(sizeOf(shape), seed, deviation), shape);
}

/** Whole numbers below a bound. */
export function randomIntegers(size: number, below: number, seed: number): Int32Array {
  const random = new Random(seed);
  return Int32Array.from({ length: size }, () => random.integer(below));
}
