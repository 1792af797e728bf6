/**
 * Weights in 4-bit floats by blocks, NF4 and FP4, with scales in 32 or 8 bits, in bitsandbytes' format.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { showShape } from "../../core/shape.ts";
import { empty, type Tensor, tensor } from "../../core/tensor.ts";
import { fourBitWeight } from "../linear/four_bit_matmul.ts";
import { packedMatmul, type PackedWeight } from "../linear/packed_matmul.ts";
import { type NestedScales, nestedToAbsmax } from "./double_quant.ts";
import { decoderOf, scaleBindings, scalesWgsl } from "./four_bit_decode.ts";
import dequantizeCode from "./four_bit_dequantize.wgsl" with { type: "text" };
import scalesCode from "./four_bit_scales.wgsl" with { type: "text" };
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";
import type { FourBitType } from "./tables.ts";

let scalesKernel: Kernel | undefined;

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

/** Throws a RangeError unless weights can share a scale by so many. */
export function checkBlockSize(blockSize: number): void {
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

/** Scales on a device, to be kept there. */
export function uploadScales(device: Device, scales: Float32Array | NestedScales): FourBitScales {
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

/** The scales of stored 4-bit weights in float32. */
export function absmaxOf(bytes: FourBitBytes): Float32Array {
  return bytes.scales instanceof Float32Array ? bytes.scales : nestedToAbsmax(bytes.scales);
}
