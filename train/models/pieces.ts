/**
 * Weights on their way from files to the device, piece by piece: neither side holds a large one twice.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import type { FourBitTensor } from "../../kernels/quant/four_bit.ts";
import { type FourBitOptions, FourBitQuantizer } from "../../kernels/quant/four_bit_quantize.ts";
import { type GgufBlockTensor, GgufBlockWriter } from "../../kernels/quant/gguf_block.ts";
import type { GgufBlockType } from "../../kernels/quant/gguf_types.ts";
import type { TensorSource } from "../files/safetensors.ts";

/** Numbers in a piece: a multiple of 64 of the longest blocks that are quantized, as alignment wants it. */
const PIECE = 1 << 20;

/** So many bytes are given to the device before it must have taken them: it copies what it is given. */
export const IN_FLIGHT = 32 << 20;

/** So many bytes may stay in flight between two tensors. */
const SCATTERED = 2 << 20;

/** A tensor's numbers in order; a piece is overwritten by the next one of any tensor. */
export type Pieces = Iterable<Float32Array<ArrayBuffer>>;

/** A tensor's numbers in pieces, or as one where the source cannot do better. */
export async function piecesOf(source: TensorSource, name: string): Promise<Pieces> {
  return source.floatPieces?.(name, PIECE) ?? [await source.readFloats(name)];
}

/** Waits, once in so many bytes, until the device has taken what it was given. */
export class Brake {
  readonly #device: Device;
  #given = 0;

  /** For all that is given to this device while a model is loaded. */
  constructor(device: Device) {
    this.#device = device;
  }

  /** Counts bytes that were written, and waits if it is time. */
  async give(bytes: number): Promise<void> {
    this.#given += bytes;
    if (this.#given >= IN_FLIGHT) await this.#wait();
  }

  /**
   * To be called behind a tensor: what a large one leaves in flight must be gone before the next one takes its memory, or the driver
   * puts that behind it, and the gap stays.
   */
  async end(): Promise<void> {
    if (this.#given >= SCATTERED) await this.#wait();
  }

  async #wait(): Promise<void> {
    this.#given = 0;
    // Writes alone are not submitted by a flush.
    this.#device.gpu.queue.submit([]);
    await this.#device.finish();
  }
}

/** Throws if a piece that begins with number `at` holds a value that no trained model has. */
export function checkFinite(piece: Float32Array, at: number): void {
  const wrong = piece.findIndex((number) => !Number.isFinite(number));
  if (wrong < 0) return;
  throw new RangeError(
    `number ${at + wrong} is ${
      piece[wrong]
    }, wanted finite ones; the model is damaged, fetch it again`,
  );
}

/**
 * A tensor in 32 bits of these pieces.
 *
 * @throws {RangeError} if one of its numbers is NaN or infinite
 */
export async function uploadPieces(
  device: Device,
  pieces: Pieces,
  shape: readonly number[],
  brake: Brake = new Brake(device),
): Promise<Tensor> {
  const whole = device.keep(empty(device, shape));
  let at = 0;
  try {
    for (const piece of pieces) {
      checkFinite(piece, at);
      device.write(viewOf(whole, [piece.length], "f32", 4 * at), piece);
      at += piece.length;
      await brake.give(piece.byteLength);
    }
    await brake.end();
  } catch (error) {
    whole.dispose();
    throw error;
  }
  return whole;
}

/** A tensor in 4 bits of these pieces. On the device there is one in 32 bits at a time. */
export async function quantizePieces(
  device: Device,
  pieces: Pieces,
  shape: readonly [number, number],
  options: FourBitOptions,
  brake: Brake = new Brake(device),
): Promise<FourBitTensor> {
  const quantizer = new FourBitQuantizer(device, shape, options);
  let buffer: Tensor | null = null;
  try {
    for (const piece of pieces) {
      // The first piece is the longest.
      buffer ??= device.keep(empty(device, [piece.length]));
      const own = viewOf(buffer, [piece.length]);
      device.write(own, piece);
      quantizer.add(own);
      await brake.give(piece.byteLength);
    }
    return await quantizer.end();
  } catch (error) {
    quantizer.dispose();
    throw error;
  } finally {
    buffer?.dispose();
  }
}

/** A weight in GGUF's blocks of these pieces of bytes. */
export async function uploadBlocks(
  device: Device,
  pieces: Iterable<Uint8Array<ArrayBuffer>>,
  shape: readonly [number, number],
  type: GgufBlockType,
  brake: Brake = new Brake(device),
): Promise<GgufBlockTensor> {
  const writer = new GgufBlockWriter(device, shape, type);
  try {
    for (const piece of pieces) {
      writer.add(piece);
      await brake.give(piece.length);
    }
    await brake.end();
    return writer.end();
  } catch (error) {
    writer.dispose();
    throw error;
  }
}
