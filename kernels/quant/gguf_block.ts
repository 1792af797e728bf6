/**
 * Weights in the blocks of GGUF files, llama.cpp's format, as they are stored.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { ggufWeight } from "../linear/gguf_matmul.ts";
import { packedMatmul, type PackedWeight } from "../linear/packed_matmul.ts";
import dequantizeCode from "./gguf_block_dequantize.wgsl" with { type: "text" };
import { GGUF_BLOCKS, type GgufBlockType, ggufWgsl } from "./gguf_types.ts";
import type { QuantizedProductOptions, QuantizedTensor } from "./quantized_tensor.ts";

const dequantizers = new Map<GgufBlockType, Kernel>();

/** A weight matrix in GGUF's blocks. Its values are llama.cpp's, to the last bit. */
export class GgufBlockTensor implements QuantizedTensor {
  /** Where it lives. */
  readonly device: Device;
  /** ggml's name of the type, such as "Q4_1". */
  readonly scheme: GgufBlockType;
  /** [out features, in features]; a row is whole blocks. */
  readonly shape: readonly [rows: number, columns: number];
  /** u32: the blocks of all rows, as in the file. */
  readonly packed: Tensor;

  /** Use `ggufBlocks`. */
  constructor(shape: readonly [number, number], scheme: GgufBlockType, packed: Tensor) {
    this.device = packed.device;
    this.shape = shape;
    this.scheme = scheme;
    this.packed = packed;
  }

  /** Bytes of the blocks, scales included: those of the file. */
  get bytes(): number {
    return bytesOf(this.scheme, this.shape);
  }

  /** The weights as f32 [rows, columns]. */
  dequantize(): Tensor {
    const { scheme, shape: [rows, columns] } = this;
    let found = dequantizers.get(scheme);
    if (!found) {
      const code = ggufWgsl(scheme) + dequantizeCode;
      dequantizers.set(scheme, found = kernel("gguf_dequantize", code));
    }
    const out = empty(this.device, this.shape);
    this.device.dispatch(
      found,
      [this.packed, out, uniform(rows * columns)],
      gridOf(Math.ceil(rows * columns / 256)),
    );
    return out;
  }

  /** `x · Wᵀ (+ add)`; see `QuantizedTensor`. */
  multiply(x: Tensor, options: QuantizedProductOptions = {}): Tensor {
    return packedMatmul(x, this.asFactor(), options);
  }

  /** @ignore How kernels multiply by it. */
  asFactor(): PackedWeight {
    return ggufWeight(this);
  }

  /** Gives its memory back. */
  dispose(): void {
    this.packed.dispose();
  }
}

function bytesOf(type: GgufBlockType, [rows, columns]: readonly [number, number]): number {
  const { weights, bytes } = GGUF_BLOCKS[type];
  return rows * columns / weights * bytes;
}

/** Throws if a block's scale is NaN or infinite: such a model is damaged. */
function checkScales(bytes: Uint8Array, at: number, type: GgufBlockType): void {
  const { bytes: size, halves, weights } = GGUF_BLOCKS[type];
  for (let block = 0; block < bytes.length; block += size) {
    for (const half of halves) {
      if ((bytes[block + half + 1] & 0x7c) !== 0x7c) continue;
      throw new RangeError(
        `the scale of the ${weights} weights from number ${
          (at + block) / size * weights
        } on is not finite; the model is damaged, fetch or convert it again`,
      );
    }
  }
}

/** Brings blocks to the device piece by piece, so that the host need not hold all of a large weight. */
export class GgufBlockWriter {
  readonly #shape: readonly [number, number];
  readonly #type: GgufBlockType;
  readonly #packed: Tensor;
  readonly #size: number;
  #at = 0;

  /** Takes memory for the blocks of a weight. Throws a RangeError if a row is not whole blocks. */
  constructor(device: Device, shape: readonly [number, number], type: GgufBlockType) {
    const { weights } = GGUF_BLOCKS[type];
    this.#size = bytesOf(type, shape);
    if (shape[1] % weights !== 0) {
      throw new RangeError(
        `Cannot use ${type} for ${
          showShape(shape)
        }: wanted rows of whole blocks of ${weights} weights`,
      );
    }
    this.#shape = shape;
    this.#type = type;
    this.#packed = device.keep(empty(device, [Math.ceil(this.#size / 4)], "u32"));
  }

  /**
   * The next blocks, whole ones, and whole words unless they are the last.
   *
   * @throws {RangeError} if there are more bytes than the weight has, or a scale is NaN or infinite
   */
  add(bytes: Uint8Array<ArrayBuffer>): void {
    if (this.#at + bytes.length > this.#size) throw this.#fault(this.#at + bytes.length);
    checkScales(bytes, this.#at, this.#type);
    const words = Math.ceil(bytes.length / 4);
    this.#packed.device.write(viewOf(this.#packed, [words], "u32", this.#at), bytes);
    this.#at += bytes.length;
  }

  /** The weight. Throws a RangeError if bytes are missing. */
  end(): GgufBlockTensor {
    if (this.#at < this.#size) throw this.#fault(this.#at);
    return new GgufBlockTensor(this.#shape, this.#type, this.#packed);
  }

  /** Gives the memory back, where there will be no end. */
  dispose(): void {
    this.#packed.dispose();
  }

  #fault(found: number): RangeError {
    return new RangeError(
      `Cannot use ${found} bytes of ${this.#type} as ${
        showShape(this.#shape)
      }: wanted ${this.#size}`,
    );
  }
}

/**
 * Brings blocks to the device as they are.
 *
 * @param device where they shall live
 * @param bytes the blocks of all rows, as in a file
 * @param shape [rows, columns]
 * @param type ggml's name of the type
 * @throws {RangeError} if a row is not whole blocks, there are more or fewer bytes, or a scale is NaN or infinite
 *
 * @example
 * ```ts
 * import { ggufBlocks, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const block = new Uint8Array(34).fill(3); // a scale in half precision, and 32 codes
 * const weight = ggufBlocks(device, block, [1, 32], "Q8_0");
 * console.log(weight.bytes, await weight.dequantize().read());
 * ```
 */
export function ggufBlocks(
  device: Device,
  bytes: Uint8Array<ArrayBuffer>,
  shape: readonly [rows: number, columns: number],
  type: GgufBlockType,
): GgufBlockTensor {
  const writer = new GgufBlockWriter(device, shape, type);
  try {
    writer.add(bytes);
    return writer.end();
  } catch (error) {
    writer.dispose();
    throw error;
  }
}
