/**
 * Writing GGUF files, version 3.
 *
 * @module
 */
import { showShape, sizeOf } from "../../core/shape.ts";
import { GGUF_ENCODINGS, type GgufWriteType } from "./gguf_quantize.ts";
import { ggufTypeNamed } from "./gguf_types.ts";
import { replaceFile } from "./output.ts";

export type { GgufWriteType } from "./gguf_quantize.ts";

/** A number in the metadata, with the type that it is written as. */
export interface GgufNumber {
  /** What it is stored in. */
  readonly type: "u8" | "i8" | "u16" | "i16" | "u32" | "i32" | "f32" | "u64" | "i64" | "f64";
  /** Its value. */
  readonly value: number | bigint;
}

/** A value to write into the metadata: arrays of numbers are written as what they are in memory. */
export type GgufField =
  | string
  | boolean
  | GgufNumber
  | readonly string[]
  | Uint8Array
  | Int8Array
  | Uint16Array
  | Int16Array
  | Uint32Array
  | Int32Array
  | Float32Array
  | BigUint64Array
  | BigInt64Array
  | Float64Array;

/** A tensor to write. */
export interface GgufTensor {
  /** How it is stored. Rows of Q8_0 and Q4_0 are made of blocks of 32. */
  readonly dtype: GgufWriteType;
  /** Row-major, as everywhere in nibble. */
  readonly shape: readonly number[];
  /** Gives its numbers. It is asked when its turn has come, so that not all tensors are in memory together. */
  read(): Float32Array | Promise<Float32Array>;
}

/** What places of tensors are multiples of, where the metadata do not say. */
const ALIGNMENT = 32;
/** So many numbers are encoded at a time; a multiple of every block. */
const PIECE = 1 << 18;
/** ggml's limits. */
const [MAX_DIMENSIONS, MAX_NAME] = [4, 63];

/** Numbers of the metadata's types. */
const TYPE_IDS = {
  u8: 0,
  i8: 1,
  u16: 2,
  i16: 3,
  u32: 4,
  i32: 5,
  f32: 6,
  bool: 7,
  string: 8,
  array: 9,
  u64: 10,
  i64: 11,
  f64: 12,
} as const;

/** How one number is laid down. */
const SETTERS: Readonly<
  Record<GgufNumber["type"], (view: DataView, value: number | bigint) => number>
> = {
  u8: (view, value) => (view.setUint8(0, Number(value)), 1),
  i8: (view, value) => (view.setInt8(0, Number(value)), 1),
  u16: (view, value) => (view.setUint16(0, Number(value), true), 2),
  i16: (view, value) => (view.setInt16(0, Number(value), true), 2),
  u32: (view, value) => (view.setUint32(0, Number(value), true), 4),
  i32: (view, value) => (view.setInt32(0, Number(value), true), 4),
  f32: (view, value) => (view.setFloat32(0, Number(value), true), 4),
  u64: (view, value) => (view.setBigUint64(0, BigInt(value), true), 8),
  i64: (view, value) => (view.setBigInt64(0, BigInt(value), true), 8),
  f64: (view, value) => (view.setFloat64(0, Number(value), true), 8),
};

/** The element type of a typed array. */
function elementOf(array: ArrayBufferView): GgufNumber["type"] {
  if (array instanceof Uint8Array) return "u8";
  if (array instanceof Int8Array) return "i8";
  if (array instanceof Uint16Array) return "u16";
  if (array instanceof Int16Array) return "i16";
  if (array instanceof Uint32Array) return "u32";
  if (array instanceof Int32Array) return "i32";
  if (array instanceof Float32Array) return "f32";
  if (array instanceof BigUint64Array) return "u64";
  if (array instanceof BigInt64Array) return "i64";
  return "f64";
}

const UTF8 = new TextEncoder();

/** The header, as it grows. */
class Header {
  #bytes = new Uint8Array(1 << 16);
  #length = 0;
  readonly #view = new DataView(new ArrayBuffer(8));

  bytes(bytes: Uint8Array): void {
    if (this.#length + bytes.length > this.#bytes.length) {
      const larger = new Uint8Array(2 * (this.#length + bytes.length));
      larger.set(this.#bytes.subarray(0, this.#length));
      this.#bytes = larger;
    }
    this.#bytes.set(bytes, this.#length);
    this.#length += bytes.length;
  }

  number(type: GgufNumber["type"], value: number | bigint): void {
    this.bytes(new Uint8Array(this.#view.buffer, 0, SETTERS[type](this.#view, value)));
  }

  text(text: string): void {
    const bytes = UTF8.encode(text);
    this.number("u64", bytes.length);
    this.bytes(bytes);
  }

  type(type: keyof typeof TYPE_IDS): void {
    this.number("u32", TYPE_IDS[type]);
  }

  field(field: GgufField): void {
    if (typeof field === "string") {
      this.type("string");
      this.text(field);
    } else if (typeof field === "boolean") {
      this.type("bool");
      this.number("u8", Number(field));
    } else if (ArrayBuffer.isView(field)) {
      this.type("array");
      this.type(elementOf(field));
      this.number("u64", field.length);
      this.bytes(new Uint8Array(field.buffer, field.byteOffset, field.byteLength));
    } else if (Array.isArray(field)) {
      this.type("array");
      this.type("string");
      this.number("u64", field.length);
      for (const text of field) this.text(text);
    } else {
      const { type, value } = field as GgufNumber;
      this.type(type);
      this.number(type, value);
    }
  }

  /** All of it, padded for the data behind it. */
  finish(): Uint8Array {
    this.bytes(new Uint8Array(padding(this.#length)));
    return this.#bytes.subarray(0, this.#length);
  }
}

/** How many zeros follow so many bytes. */
function padding(length: number): number {
  return (ALIGNMENT - length % ALIGNMENT) % ALIGNMENT;
}

/** The bytes that a tensor takes. Throws if the format does not have such a tensor. */
function sizeIn(path: string, name: string, { dtype, shape }: GgufTensor): number {
  if (!Object.hasOwn(GGUF_ENCODINGS, dtype)) {
    throw new TypeError(
      `Cannot write "${name}" to "${path}": found the type "${dtype}", wanted one of ${
        Object.keys(GGUF_ENCODINGS).join(", ")
      }`,
    );
  }
  const type = ggufTypeNamed(dtype);
  const what = `Cannot write "${name}" to "${path}": found`;
  if (UTF8.encode(name).length > MAX_NAME) {
    throw new RangeError(`${what} a name of ${name.length} characters, wanted at most ${MAX_NAME}`);
  }
  if (shape.length > MAX_DIMENSIONS) {
    throw new RangeError(`${what} the shape ${showShape(shape)}, wanted at most 4 axes`);
  }
  const row = shape.at(-1) ?? 1;
  if (row % type.block !== 0) {
    throw new RangeError(
      `${what} rows of ${row} numbers, wanted a multiple of ${type.block} for ${dtype}; write it as F16`,
    );
  }
  return sizeOf(shape) / type.block * type.bytes;
}

function headerOf(
  path: string,
  metadata: ReadonlyMap<string, GgufField>,
  tensors: ReadonlyMap<string, GgufTensor>,
): Uint8Array {
  const header = new Header();
  header.bytes(UTF8.encode("GGUF"));
  header.number("u32", 3);
  header.number("u64", tensors.size);
  header.number("u64", metadata.size);
  for (const [key, field] of metadata) {
    header.text(key);
    header.field(field);
  }
  let offset = 0;
  for (const [name, tensor] of tensors) {
    const size = sizeIn(path, name, tensor);
    header.text(name);
    header.number("u32", tensor.shape.length);
    for (const length of tensor.shape.toReversed()) header.number("u64", length);
    header.number("u32", GGUF_ENCODINGS[tensor.dtype].id);
    header.number("u64", offset);
    offset += size + padding(size);
  }
  return header.finish();
}

/** Throws unless all numbers are such as the type holds. */
function checkNumbers(path: string, name: string, dtype: string, numbers: Float32Array): void {
  const { most } = GGUF_ENCODINGS[dtype as GgufWriteType];
  const wrong = numbers.find((number) =>
    !(Math.abs(number) <= most) || Math.abs(number) === Infinity
  );
  if (wrong === undefined) return;
  throw new RangeError(
    `Cannot write "${name}" to "${path}": found ${wrong}, wanted ${
      Number.isFinite(wrong)
        ? `numbers of at most ${most} for ${dtype}; write it as F32`
        : "numbers; is the model damaged, or was it trained with too high a learning rate?"
    }`,
  );
}

/** Encodes a tensor piece by piece. */
async function* encoded(
  path: string,
  name: string,
  tensor: GgufTensor,
): AsyncGenerator<Uint8Array> {
  const { dtype, shape } = tensor;
  const numbers = await tensor.read();
  if (numbers.length !== sizeOf(shape)) {
    throw new RangeError(
      `Cannot write "${name}" to "${path}": found ${numbers.length} numbers, wanted ${
        sizeOf(shape)
      } for the shape ${showShape(shape)}`,
    );
  }
  const type = ggufTypeNamed(dtype);
  for (let from = 0; from < numbers.length; from += PIECE) {
    const piece = numbers.subarray(from, from + PIECE);
    checkNumbers(path, name, dtype, piece);
    const bytes = new Uint8Array(piece.length / type.block * type.bytes);
    GGUF_ENCODINGS[dtype].encode(piece, bytes);
    yield bytes;
  }
}

/** Writes all bytes, with errors that name the file. */
function writeAll(file: Deno.FsFile, bytes: Uint8Array, path: string): void {
  try {
    for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
  } catch (error) {
    throw new Error(`Cannot write "${path}": ${(error as Error).message}`, { cause: error });
  }
}

function create(temporary: string, path: string): Deno.FsFile {
  try {
    return Deno.openSync(temporary, { write: true, create: true, truncate: true });
  } catch (error) {
    throw new Error(`Cannot write "${path}": ${(error as Error).message}`, { cause: error });
  }
}

/**
 * Writes a GGUF file of version 3, whole or not at all (temporary name, then rename). Tensors are asked for their numbers one by
 * one, and rounded as llama.cpp's reference does it, to the byte.
 *
 * @param path where to; a file that is there is replaced
 * @param metadata values by key, in the order in which they are written
 * @param tensors by llama.cpp's names, in the order in which they are written
 * @throws {TypeError} if a type is unknown
 * @throws {RangeError} if a tensor does not fit its shape, its type or the format, or holds NaN or infinity
 * @throws {Error} if the file cannot be written
 *
 * @example
 * ```ts
 * import { GgufFile, writeGguf } from "@nibble/nibble";
 *
 * const path = `${await Deno.makeTempDir()}/ramp.gguf`;
 * const ramp = Float32Array.from({ length: 64 }, (_, i) => i);
 * await writeGguf(
 *   path,
 *   new Map([["general.name", "a ramp"]]),
 *   new Map([["ramp", { dtype: "Q8_0", shape: [2, 32], read: () => ramp }]]),
 * );
 * using file = await GgufFile.open(path);
 * console.log(file.entries.get("ramp")?.end); // 68
 * ```
 */
export async function writeGguf(
  path: string,
  metadata: ReadonlyMap<string, GgufField>,
  tensors: ReadonlyMap<string, GgufTensor>,
): Promise<void> {
  const header = headerOf(path, metadata, tensors);
  await replaceFile(path, async (temporary) => {
    using file = create(temporary, path);
    writeAll(file, header, path);
    for (const [name, tensor] of tensors) {
      let size = 0;
      for await (const bytes of encoded(path, name, tensor)) {
        writeAll(file, bytes, path);
        size += bytes.length;
      }
      writeAll(file, new Uint8Array(padding(size)), path);
    }
  });
}
