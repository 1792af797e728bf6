/**
 * Weights that are kept in 16 bits on the device: half the memory, and half of what a product reads.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import type { WeightSpec } from "./architecture.ts";
import type { LoadOptions } from "./load_options.ts";
import { Brake, checkFinite, type Pieces } from "./pieces.ts";

/**
 * Whether a plain weight shall be kept in 16 bits, if its numbers allow it. By itself only on a GPU: software Vulkan reads floats from
 * textures, and would widen the weight for each product.
 */
export function wantsHalves(
  device: Device,
  { role, shape }: Pick<WeightSpec, "role" | "shape">,
  { weights, trainable }: Pick<LoadOptions, "weights" | "trainable">,
): boolean {
  if (weights === "f32" || trainable === "all" || role === "norm" || role === "bias") return false;
  // Kernels take four neighbours of a row at once.
  if (shape.length !== 2 || shape[1] % 4 !== 0) return false;
  return weights === "f16" || device.adapter.type === "gpu";
}

/**
 * Writes floats as the bits of halves, if every one of them is a half.
 *
 * @param numbers finite numbers
 * @param out as many halves
 * @returns whether all are the same numbers; else what `out` holds means nothing
 */
export function exactHalves(numbers: Float32Array, out: Uint16Array): boolean {
  const bits = new Uint32Array(numbers.buffer, numbers.byteOffset, numbers.length);
  for (let i = 0; i < bits.length; i++) {
    const sign = bits[i] >>> 16 & 0x8000;
    const magnitude = bits[i] & 0x7fff_ffff;
    if (magnitude >= 0x3880_0000) {
      // A half has thirteen bits less behind the point, and no exponent above 15.
      if (magnitude & 0x1fff || magnitude >= 0x4780_0000) return false;
      out[i] = sign | magnitude - 0x3800_0000 >>> 13;
    } else if (magnitude >= 0x3380_0000) {
      // A subnormal half is a multiple of 2⁻²⁴.
      const shift = 126 - (magnitude >>> 23);
      const mantissa = magnitude & 0x7f_ffff | 0x80_0000;
      if (mantissa & (1 << shift) - 1) return false;
      out[i] = sign | mantissa >>> shift;
    } else if (magnitude === 0) out[i] = sign;
    else return false;
  }
  return true;
}

/** A weight that was uploaded, and what became of its numbers. */
export interface UploadedHalves {
  /** f16, or f32 where its numbers do not fit into halves. */
  readonly weight: Tensor;
  /** "rounded" if they changed, "wide" if the weight is f32. */
  readonly kind: "exact" | "rounded" | "wide";
}

/** A piece as halves: the same numbers, or with `round` the nearest ones, or null if they do not fit. */
function halvesOf(
  piece: Float32Array,
  room: Uint16Array<ArrayBuffer>,
  round: boolean,
): { halves: Float16Array; exact: boolean } | null {
  // Pieces begin at whole words.
  if (piece.length % 2 !== 0) return null;
  if (exactHalves(piece, room)) {
    return { halves: new Float16Array(room.buffer, 0, piece.length), exact: true };
  }
  if (!round) return null;
  const halves = new Float16Array(piece);
  return halves.every(Number.isFinite) ? { halves, exact: false } : null;
}

/** The first `count` numbers of a tensor of halves, in a tensor of floats that takes its place. */
function widenStart(whole: Tensor, count: number): Tensor {
  const { device } = whole;
  const wide = device.keep(empty(device, whole.shape));
  if (count > 0) {
    const start = noGrad(() => cast(viewOf(whole, [count]), "f32"));
    device.copy(start, viewOf(wide, [count]));
    start.dispose();
  }
  whole.dispose();
  return wide;
}

/**
 * A weight of these pieces in 16 bits, if all of its numbers are halves, and else in 32.
 *
 * @param device where it shall live
 * @param pieces its numbers
 * @param shape [rows, columns]
 * @param round take the nearest halves, unless a number is beyond their range
 * @throws {RangeError} if one of its numbers is NaN or infinite
 */
export async function uploadHalves(
  device: Device,
  pieces: Pieces,
  shape: readonly number[],
  round: boolean,
  brake: Brake = new Brake(device),
): Promise<UploadedHalves> {
  let whole = device.keep(empty(device, shape, "f16"));
  let room = new Uint16Array(0);
  let [at, allExact] = [0, true];
  try {
    for (const piece of pieces) {
      checkFinite(piece, at);
      if (room.length < piece.length) room = new Uint16Array(piece.length);
      const found = whole.dtype === "f16" ? halvesOf(piece, room, round) : null;
      if (found) {
        allExact &&= found.exact;
        device.write(viewOf(whole, [piece.length], "f16", 2 * at), found.halves);
      } else {
        if (whole.dtype === "f16") whole = widenStart(whole, at);
        device.write(viewOf(whole, [piece.length], "f32", 4 * at), piece);
      }
      at += piece.length;
      await brake.give(found?.halves.byteLength ?? piece.byteLength);
    }
    await brake.end();
  } catch (error) {
    whole.dispose();
    throw error;
  }
  return {
    weight: whole,
    kind: whole.dtype === "f32" ? "wide" : allExact ? "exact" : "rounded",
  };
}

/** What a user who asked for halves should know of them: which weights were rounded, and which stayed in 32 bits. */
export class HalvesReport {
  readonly #rounded: string[] = [];
  readonly #wide: string[] = [];

  /** Counts a weight. */
  add(name: string, kind: UploadedHalves["kind"]): void {
    if (kind === "rounded") this.#rounded.push(name);
    if (kind === "wide") this.#wide.push(name);
  }

  /** A line for each of the two, if there is something to say. */
  notes({ weights }: Pick<LoadOptions, "weights">): string[] {
    if (weights !== "f16") return [];
    const line = (names: readonly string[], what: string) => {
      if (names.length === 0) return [];
      const more = names.length > 1 ? ` and ${names.length - 1} more` : "";
      return [`"${names[0]}"${more} ${what}`];
    };
    return [
      ...line(this.#rounded, "rounded to 16 bits"),
      ...line(this.#wide, "kept in 32 bits: found numbers beyond 65504, the largest in 16"),
    ];
  }
}
