/**
 * Quantizing weights to 4-bit floats on the GPU, whole or piece by piece.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { doubleQuantize } from "./double_quant.ts";
import { checkBlockSize, FourBitTensor, uploadScales } from "./four_bit.ts";
import quantizeCode from "./four_bit_quantize.wgsl" with { type: "text" };
import { type FourBitType, thresholdsOf } from "./tables.ts";

const quantizeKernel = kernel("four_bit_quantize", quantizeCode);

/** How a weight is quantized to 4-bit floats. */
export interface FourBitOptions {
  /** "nf4" by default: the best of the 4-bit floats for normal weights (Dettmers et al., arXiv 2305.14314, table 2). */
  readonly type?: FourBitType;
  /** Weights that share a scale: 64 by default; a power of two from 32 to 4096. */
  readonly blockSize?: number;
  /** Quantize the scales to 8 bits: 4.127 instead of 4.5 bits per weight at blocks of 64. */
  readonly doubleQuant?: boolean;
}

function checkType(type: FourBitType): void {
  if (type === "nf4" || type === "fp4") return;
  throw new RangeError(
    `Cannot quantize to ${JSON.stringify(type)} in 4 bits: wanted "nf4" or "fp4"`,
  );
}

/**
 * Quantizes a weight matrix to 4-bit floats on the GPU: codes, scales and double-quantized scales are equal to those of
 * bitsandbytes' CPU version byte for byte, but for one scale that stands for nothing: where the last block is a short one and all
 * zeros, that version has 1e-38, its CUDA version and nibble 0. (On CUDA a block of zeros has other codes, of zero too; see also
 * tables.ts and double_quant.ts.)
 *
 * @param weight f32 [rows, columns]; it may be freed afterwards
 * @param options type, block size, double quantization
 * @throws {RangeError} if the weight holds NaN or infinity, naming the block
 *
 * @example
 * ```ts
 * import { openDevice, quantizeFourBit, Random, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const random = new Random(1);
 * const weight = tensor(device, Float32Array.from({ length: 4096 }, () => random.normal()), [64, 64]);
 * const nf4 = await quantizeFourBit(weight, { doubleQuant: true });
 * console.log(nf4.scheme, nf4.bytes, "of", weight.bytes); // nf4-dq 2120 of 16384
 * ```
 */
export async function quantizeFourBit(
  weight: Tensor,
  options: FourBitOptions = {},
): Promise<FourBitTensor> {
  checkBlockSize(options.blockSize ?? 64);
  checkRank("quantize", weight, 2, "the weight");
  checkDType("quantize", weight, "f32", "the weight");
  const quantizer = new FourBitQuantizer(
    weight.device,
    [weight.shape[0], weight.shape[1]],
    options,
  );
  quantizer.add(weight);
  return await quantizer.end();
}

/** Quantizes a weight that comes in pieces, so that it is never on the device whole in 32 bits. */
export class FourBitQuantizer {
  readonly #device: Device;
  readonly #shape: readonly [number, number];
  readonly #options: Required<FourBitOptions>;
  readonly #size: number;
  readonly #packed: Tensor;
  readonly #absmax: Tensor;
  #at = 0;

  /** For a weight of this shape. */
  constructor(device: Device, shape: readonly [number, number], options: FourBitOptions = {}) {
    const { type = "nf4", blockSize = 64, doubleQuant = false } = options;
    checkType(type);
    checkBlockSize(blockSize);
    this.#device = device;
    this.#shape = shape;
    this.#options = { type, blockSize, doubleQuant };
    this.#size = shape[0] * shape[1];
    this.#packed = device.keep(empty(device, [Math.ceil(this.#size / 8)], "u32"));
    this.#absmax = device.keep(empty(device, [Math.ceil(this.#size / blockSize)], "u32"));
  }

  /** Queues the work on the next elements: f32, and except for the last piece a multiple of 64 blocks, for the sake of alignment. */
  add(piece: Tensor): void {
    const { type, blockSize } = this.#options;
    const [at, size] = [this.#at, piece.size];
    const isLast = at + size === this.#size;
    if (at + size > this.#size || !isLast && size % (64 * blockSize) !== 0) {
      throw new RangeError(
        `Cannot quantize elements ${at} to ${at + size - 1} of a weight of shape ${
          showShape(this.#shape)
        }: wanted the last ones, or a multiple of ${64 * blockSize}`,
      );
    }
    const { thresholds, codes } = thresholdsOf(type);
    const code = (from: number) =>
      codes.slice(from, from + 8).reduce((word, own, i) => word | own << (4 * i), 0) >>> 0;
    const params = uniform(size, blockSize, code(0), code(8), ...Array.from(thresholds, floatBits));
    const blocks = Math.ceil(size / blockSize);
    const lanes = Math.min(64, blockSize / 8);
    this.#device.dispatch(
      quantizeKernel,
      [
        piece,
        viewOf(this.#packed, [Math.ceil(size / 8)], "u32", at / 2),
        viewOf(this.#absmax, [blocks], "u32", 4 * at / blockSize),
        params,
      ],
      gridOf(Math.ceil(blocks / (64 / lanes))),
      { LANES: lanes, ROWS: 64 / lanes },
    );
    this.#at += size;
  }

  /**
   * Waits until all is quantized.
   *
   * @throws {RangeError} if the weight holds NaN or infinity, naming the block
   */
  async end(): Promise<FourBitTensor> {
    const { type, blockSize, doubleQuant } = this.#options;
    const found = new Float32Array((await this.#absmax.read()).buffer);
    const bad = found.findIndex((scale) => !Number.isFinite(scale));
    if (bad >= 0) {
      this.dispose();
      throw new RangeError(
        `Cannot quantize a weight of shape ${showShape(this.#shape)}: block ${bad} (elements ${
          bad * blockSize
        } to ` +
          `${Math.min(this.#size, (bad + 1) * blockSize) - 1}) holds NaN or infinity`,
      );
    }
    if (!doubleQuant) {
      const absmax = viewOf(this.#absmax, [found.length], "f32");
      return new FourBitTensor(this.#shape, type, blockSize, this.#packed, {
        kind: "plain",
        absmax,
      });
    }
    this.#absmax.dispose();
    const nested = uploadScales(this.#device, doubleQuantize(found));
    return new FourBitTensor(this.#shape, type, blockSize, this.#packed, nested);
  }

  /** Gives the memory back where the weight does not come to its end. */
  dispose(): void {
    this.#packed.dispose();
    this.#absmax.dispose();
  }
}
