/**
 * 4-bit floats by blocks, NF4 and FP4, with scales in 32 or 8 bits, in bitsandbytes' format.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { checkDType, checkRank, showShape } from "../../core/shape.ts";
import { empty, type Tensor, tensor, viewOf } from "../../core/tensor.ts";
import { fourBitWeight } from "../linear/four_bit_matmul.ts";
import { packedMatmul, type PackedWeight } from "../linear/packed_matmul.ts";
import { doubleQuantize, type NestedScales, nestedToAbsmax } from "./double_quant.ts";
import { decoderOf, scaleBindings, scalesWgsl } from "./four_bit_decode.ts";
import dequantizeCode from "./four_bit_dequantize.wgsl" with { type: "text" };
import scalesCode from "./four_bit_scales.wgsl" with { type: "text" };
import quantizeCode from "./four_bit_quantize.wgsl" with { type: "text" };
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import { type FourBitType, thresholdsOf } from "./tables.ts";

let scalesKernel: Kernel | undefined;
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

/** The scales of a 4-bit tensor on the GPU. */
export type FourBitScales =
  | { readonly kind: "plain"; readonly absmax: Tensor }
  /** `codes`: four to a word. `table`: the 256 values of a code, the offset, a zero, and a scale for 256 codes each. */
  | { readonly kind: "nested"; readonly codes: Tensor; readonly table: Tensor };

/** The bytes of a 4-bit tensor on the host, as bitsandbytes stores them. */
export interface FourBitBytes {
  /** Two codes to a byte, the first in the high half; ⌈n/2⌉ bytes. */
  readonly packed: Uint8Array;
  /** One scale for each block, in 32 bits or double-quantized. */
  readonly scales: Float32Array | NestedScales;
}

/** A weight matrix in 4-bit floats. */
export class FourBitTensor implements QuantizedTensor {
  readonly device: Device;
  readonly shape: readonly [rows: number, columns: number];
  /** "nf4" or "fp4". */
  readonly type: FourBitType;
  /** Weights that share a scale. */
  readonly blockSize: number;
  /** The codes, eight to a word. */
  readonly packed: Tensor;
  /** A scale for each block. */
  readonly scales: FourBitScales;
  /** The scales in 32 bits, if they are nested and few. */
  #plain: Tensor | null = null;

  /** Use `quantizeFourBit` or `fourBitFromBytes`. */
  constructor(
    shape: readonly [number, number],
    type: FourBitType,
    blockSize: number,
    packed: Tensor,
    scales: FourBitScales,
  ) {
    this.device = packed.device;
    this.shape = shape;
    this.type = type;
    this.blockSize = blockSize;
    this.packed = packed;
    this.scales = scales;
  }

  /** "nf4", "nf4-dq", "fp4" or "fp4-dq". */
  get scheme(): string {
    return this.scales.kind === "nested" ? `${this.type}-dq` : this.type;
  }

  /** The number of weights. */
  get size(): number {
    return this.shape[0] * this.shape[1];
  }

  /** Bytes of codes and scales as a checkpoint stores them (with nested scales their offset, not the constant tables). */
  get bytes(): number {
    const blocks = Math.ceil(this.size / this.blockSize);
    const codes = Math.ceil(this.size / 2);
    return this.scales.kind === "plain"
      ? codes + 4 * blocks
      : codes + blocks + 4 * Math.ceil(blocks / 256) + 4;
  }

  /** The weights as f32 [rows, columns], equal to bitsandbytes' to the last bit. */
  dequantize(): Tensor {
    const { device, size, blockSize, shape } = this;
    const decoder = decoderOf(this);
    let found = dequantizers.get(decoder.kind);
    if (!found) {
      found = kernel("four_bit_dequantize", decoder.wgsl(3) + dequantizeCode);
      dequantizers.set(decoder.kind, found);
    }
    const out = empty(device, shape);
    device.dispatch(
      found,
      [this.packed, out, uniform(size, blockSize), ...decoder.bindings],
      gridOf(Math.ceil(size / 512)),
    );
    return out;
  }

  /**
   * @ignore The same weight with scales in 32 bits: itself, if that is what it has. Of a small weight they are made once and kept;
   * of a large one they are `scratch`, for the caller to free.
   */
  withPlainScales(): { readonly weight: FourBitTensor; readonly scratch?: Tensor } {
    if (this.scales.kind === "plain") return { weight: this };
    if (this.#blocks <= MOST_KEPT_SCALES) {
      this.#plain ??= this.device.unrecorded(() => this.device.keep(this.#plainScales()));
      return { weight: this.#with(this.#plain) };
    }
    const scratch = this.#plainScales();
    return { weight: this.#with(scratch), scratch };
  }

  get #blocks(): number {
    return Math.ceil(this.size / this.blockSize);
  }

  #with(absmax: Tensor): FourBitTensor {
    const { shape, type, blockSize, packed } = this;
    return new FourBitTensor(shape, type, blockSize, packed, { kind: "plain", absmax });
  }

  /** The scales in 32 bits. */
  #plainScales(): Tensor {
    const { device } = this;
    const blocks = this.#blocks;
    const absmax = empty(device, [blocks]);
    scalesKernel ??= kernel("four_bit_scales", scalesWgsl("absmax", this, 2) + scalesCode);
    device.dispatch(
      scalesKernel,
      [absmax, uniform(blocks), ...scaleBindings(this)],
      gridOf(Math.ceil(blocks / 64)),
    );
    return absmax;
  }

  /** `x · Wᵀ (+ add)`; see `QuantizedTensor`. */
  multiply(x: Tensor, options: QuantizedProductOptions = {}): Tensor {
    return packedMatmul(x, this.asFactor(), options);
  }

  /** @ignore How kernels multiply by it. */
  asFactor(): PackedWeight {
    return fourBitWeight(this);
  }

  /** Reads the codes and scales back, as a checkpoint stores them. */
  async toBytes(): Promise<FourBitBytes> {
    const blocks = Math.ceil(this.size / this.blockSize);
    const { scales } = this;
    const [packed, first, second] = await Promise.all([
      this.packed.read(),
      scales.kind === "plain" ? scales.absmax.read() : scales.codes.read(),
      scales.kind === "nested" ? scales.table.read() : null,
    ]);
    return {
      packed: new Uint8Array(packed.buffer, 0, Math.ceil(this.size / 2)),
      scales: second
        ? {
          codes: new Uint8Array(first.buffer, 0, blocks),
          map: (second as Float32Array).slice(0, 256),
          offset: second[256],
          nestedAbsmax: (second as Float32Array).slice(258, 258 + Math.ceil(blocks / 256)),
        }
        : first as Float32Array,
    };
  }

  dispose(): void {
    this.#plain?.dispose();
    this.packed.dispose();
    if (this.scales.kind === "plain") this.scales.absmax.dispose();
    else {
      this.scales.codes.dispose();
      this.scales.table.dispose();
    }
  }
}

/**
 * So many scales of a weight are kept in 32 bits beside nested ones, once they were needed: a quarter of a megabyte at most, and a
 * dispatch less for each product. Making them again is cheap beside the product of a larger weight.
 */
const MOST_KEPT_SCALES = 65_536;

const dequantizers = new Map<string, Kernel>();

function checkType(type: FourBitType): void {
  if (type === "nf4" || type === "fp4") return;
  throw new RangeError(
    `Cannot quantize to ${JSON.stringify(type)} in 4 bits: wanted "nf4" or "fp4"`,
  );
}

function checkBlockSize(blockSize: number): void {
  if (blockSize >= 32 && blockSize <= 4096 && Number.isInteger(Math.log2(blockSize))) return;
  throw new RangeError(
    `Cannot quantize in blocks of ${blockSize}: the size must be 32, 64, 128, 256, 512, 1024, 2048 or 4096`,
  );
}

/** Bytes as words, the last one filled with zeros. */
function toWords(bytes: Uint8Array): Uint32Array {
  const words = new Uint32Array(Math.ceil(bytes.length / 4));
  new Uint8Array(words.buffer).set(bytes);
  return words;
}

function uploadScales(device: Device, scales: Float32Array | NestedScales): FourBitScales {
  if (scales instanceof Float32Array) {
    return { kind: "plain", absmax: device.keep(tensor(device, scales)) };
  }
  const table = new Float32Array(258 + scales.nestedAbsmax.length);
  table.set(scales.map);
  table[256] = scales.offset;
  table.set(scales.nestedAbsmax, 258);
  return {
    kind: "nested",
    codes: device.keep(tensor(device, toWords(scales.codes))),
    table: device.keep(tensor(device, table)),
  };
}

/**
 * Puts stored 4-bit weights on a device.
 *
 * @param device where they shall live
 * @param bytes codes and scales, as bitsandbytes stores them
 * @param shape [rows, columns]
 * @param options the type and block size that they were quantized with
 * @throws {RangeError} if the numbers of bytes or scales do not fit the shape
 */
export function fourBitFromBytes(
  device: Device,
  bytes: FourBitBytes,
  shape: readonly [number, number],
  options: { type: FourBitType; blockSize: number },
): FourBitTensor {
  const { type, blockSize } = options;
  checkBlockSize(blockSize);
  const size = shape[0] * shape[1];
  const scales = bytes.scales instanceof Float32Array ? bytes.scales : bytes.scales.codes;
  const wanted = [Math.ceil(size / 2), Math.ceil(size / blockSize)];
  if (bytes.packed.length !== wanted[0] || scales.length !== wanted[1]) {
    throw new RangeError(
      `Cannot read 4-bit weights of shape ${
        showShape(shape)
      }: found ${bytes.packed.length} bytes and ` +
        `${scales.length} scales, wanted ${wanted[0]} and ${wanted[1]}`,
    );
  }
  const packed = device.keep(tensor(device, toWords(bytes.packed)));
  return new FourBitTensor(shape, type, blockSize, packed, uploadScales(device, bytes.scales));
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

/** The scales of stored 4-bit weights in float32. */
export function absmaxOf(bytes: FourBitBytes): Float32Array {
  return bytes.scales instanceof Float32Array ? bytes.scales : nestedToAbsmax(bytes.scales);
}
