/**
 * GGUF files, llama.cpp's format: metadata and quantized tensors in one file.
 *
 * @module
 */
import { sizeOf } from "../../core/shape.ts";
import { DEQUANTIZE } from "./gguf_dequantize.ts";
import { type GgufHeader, type GgufValue, readGgufHeader } from "./gguf_header.ts";
import { ggufTypeNamed } from "./gguf_types.ts";
import { readFault } from "./input.ts";
import type { TensorSource } from "./safetensors.ts";
import { fill, type TensorEntry } from "./safetensors_header.ts";
import { tensorMemory } from "./tensor_memory.ts";

export type { GgufArray, GgufScalar, GgufValue } from "./gguf_header.ts";

/** So many numbers are read and decoded at a time by `readFloats`: what is in memory is little more than the result. */
const PIECE = 1 << 18;

/** So many weights are a piece of `bytePieces`: a few megabytes, as many small ones would scatter over the memory. */
const BLOCK_PIECE = 1 << 22;

/** Whether a path is that of a GGUF file: by its end, as llama.cpp tells. */
export function isGgufPath(path: string): boolean {
  return /\.gguf$/i.test(path);
}

/** Which row of the file is a row of the result, for tensors whose rows lie in another order than wanted. */
export type RowOrder = (row: number) => number;

/**
 * One open GGUF file of version 2 or 3; only its header is in memory. Tensors have llama.cpp's names; `loadModel` gives a model
 * with Hugging Face's.
 *
 * @example Listing what a file has
 * ```ts
 * import { GgufFile } from "@nibble/nibble";
 *
 * async function list(path: string) {
 *   using file = await GgufFile.open(path);
 *   console.log(file.metadata.get("general.architecture"), file.metadata.get("tokenizer.chat_template"));
 *   for (const [name, { dtype, shape }] of file.entries) console.log(name, dtype, shape);
 *   return await file.readFloats("token_embd.weight");
 * }
 * console.log(list.name);
 * ```
 */
export class GgufFile implements TensorSource {
  /** The path it was opened with. */
  readonly path: string;
  /** 2 or 3. */
  readonly version: number;
  /** The metadata by key, in file order. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** What is in it, by tensor name; `dtype` is ggml's, such as "Q4_1", and `shape` row-major, the reverse of the file's order. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly #file: Deno.FsFile;
  readonly #start: number;
  /** A piece, and how it is stored: kept from tensor to tensor. */
  #numbers = new Float32Array(0);
  #stored = new Uint8Array(0);

  private constructor(path: string, file: Deno.FsFile, header: GgufHeader) {
    this.path = path;
    this.version = header.version;
    this.metadata = header.metadata;
    this.entries = header.entries;
    this.#file = file;
    this.#start = header.start;
  }

  /**
   * Opens a file and checks its header.
   *
   * @throws {Error} if the file is missing or cannot be read.
   * @throws {SyntaxError} if it is not a GGUF file of version 2 or 3, or its header is damaged.
   * @throws {RangeError} if a length, a tensor or an offset does not fit into the file.
   */
  static async open(path: string): Promise<GgufFile> {
    let file: Deno.FsFile;
    try {
      file = await Deno.open(path);
    } catch (error) {
      throw readFault(path, "the model in", error);
    }
    try {
      const info = await file.stat();
      if (info.isDirectory) throw readFault(path, "the model in", new Deno.errors.IsADirectory());
      return new GgufFile(path, file, readGgufHeader(path, file, info.size));
    } catch (error) {
      file.close();
      throw error;
    }
  }

  #entry(name: string): TensorEntry {
    const entry = this.entries.get(name);
    if (entry) return entry;
    const some = [...this.entries.keys()].slice(0, 5).map((key) => `"${key}"`).join(", ");
    throw new RangeError(
      `Cannot read "${name}": "${this.path}" has ${this.entries.size} tensors, such as ${
        some || "none"
      }`,
    );
  }

  #fill(name: string, from: number, bytes: Uint8Array): void {
    // Seek and read without a pause between, so that reads started together cannot take each other's place.
    this.#file.seekSync(this.#start + from, Deno.SeekMode.Start);
    if (fill(this.#file, bytes)) return;
    throw new RangeError(
      `Cannot read "${name}" in "${this.path}": the file became shorter; it is being written?`,
    );
  }

  /** Fills `bytes` with blocks, from weight `first` on, a multiple of a block. */
  #fillBlocks(name: string, first: number, bytes: Uint8Array, order?: RowOrder): void {
    const { dtype, shape, begin } = this.#entry(name);
    const type = ggufTypeNamed(dtype);
    const byteOf = (weight: number) => weight / type.block * type.bytes;
    if (!order) return this.#fill(name, begin + byteOf(first), bytes);
    const width = sizeOf(shape) / shape[0];
    const last = first + bytes.length / type.bytes * type.block;
    for (let at = first; at < last;) {
      const row = Math.floor(at / width);
      const end = Math.min(last, (row + 1) * width);
      const own = bytes.subarray(byteOf(at - first), byteOf(end - first));
      this.#fill(name, begin + byteOf(order(row) * width + at - row * width), own);
      at = end;
    }
  }

  /**
   * A tensor's bytes, exactly as stored.
   *
   * @param order the file's row for each row of the result; by default the same
   * @throws {RangeError} for an unknown name.
   */
  read(name: string, order?: RowOrder): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.try(() => {
      const { begin, end } = this.#entry(name);
      const bytes = tensorMemory(Uint8Array, end - begin, name, this.path);
      this.#fillBlocks(name, 0, bytes, order);
      return bytes;
    });
  }

  /**
   * The same in pieces of whole blocks and of whole words, but for the last: each is overwritten by the next one of any tensor.
   *
   * @throws {RangeError} for an unknown name.
   */
  *bytePieces(name: string, order?: RowOrder): Generator<Uint8Array<ArrayBuffer>> {
    const { dtype, shape } = this.#entry(name);
    const { block, bytes } = ggufTypeNamed(dtype);
    const size = sizeOf(shape);
    const longest = Math.min(BLOCK_PIECE, size);
    for (let at = 0; at < size; at += longest) {
      const piece = this.#reserve(Math.min(longest, size - at) / block * bytes);
      this.#fillBlocks(name, at, piece, order);
      yield piece;
    }
  }

  /** So many bytes of the common buffer. */
  #reserve(bytes: number): Uint8Array<ArrayBuffer> {
    if (this.#stored.length < bytes) this.#stored = new Uint8Array(bytes);
    return this.#stored.subarray(0, bytes);
  }

  /**
   * A tensor as f32, row-major, decoded as llama.cpp does it, to the last bit: F32, F16, BF16, Q4_0, Q4_1, Q5_0, Q5_1, Q8_0, Q4_K,
   * Q5_K or Q6_K.
   *
   * @param order the file's row for each row of the result; by default the same
   * @throws {RangeError} for an unknown name.
   * @throws {TypeError} for another type.
   */
  readFloats(name: string, order?: RowOrder): Promise<Float32Array<ArrayBuffer>> {
    return Promise.try(() => {
      const numbers = tensorMemory(Float32Array, sizeOf(this.#entry(name).shape), name, this.path);
      let at = 0;
      for (const piece of this.floatPieces(name, PIECE, order)) {
        numbers.set(piece, at);
        at += piece.length;
      }
      return numbers;
    });
  }

  /**
   * The same, so many numbers at a time, a multiple of 256: a piece is overwritten by the next one of any tensor.
   *
   * @throws {RangeError} for an unknown name.
   * @throws {TypeError} for another type.
   */
  *floatPieces(
    name: string,
    most: number,
    order?: RowOrder,
  ): Generator<Float32Array<ArrayBuffer>> {
    const { dtype, shape } = this.#entry(name);
    const dequantize = DEQUANTIZE.get(dtype);
    if (!dequantize) {
      throw new TypeError(
        `Cannot read "${name}" in "${this.path}" as floats: it holds ${dtype}, wanted ${
          [...DEQUANTIZE.keys()].join(", ")
        }; take the model in another quantization, such as Q4_K_M or Q8_0`,
      );
    }
    const type = ggufTypeNamed(dtype);
    const size = sizeOf(shape);
    const longest = Math.min(most, size);
    if (this.#numbers.length < longest) this.#numbers = new Float32Array(longest);
    for (let at = 0; at < size; at += longest) {
      const count = Math.min(longest, size - at);
      const piece = this.#numbers.subarray(0, count);
      const bytes = this.#reserve(count / type.block * type.bytes);
      this.#fillBlocks(name, at, bytes, order);
      dequantize(bytes, piece);
      yield piece;
    }
  }

  /** Closes the file. */
  close(): void {
    this.#file.close();
  }

  /** Closes the file, for `using`. */
  [Symbol.dispose](): void {
    this.close();
  }
}
