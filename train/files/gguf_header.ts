/**
 * The header of a GGUF file: metadata and the list of tensors, with the checks of llama.cpp's `gguf.cpp`
 * (github.com/ggml-org/ggml, `docs/gguf.md`).
 *
 * @module
 */
import { showShape } from "../../core/shape.ts";
import { Cursor } from "./gguf_cursor.ts";
import { type GgufType, ggufType } from "./gguf_types.ts";
import type { TensorEntry } from "./safetensors_header.ts";

/**
 * A value of the metadata. Whole numbers of 64 bits are bigints where a number would round them; arrays of numbers are typed
 * arrays.
 */
export type GgufValue = GgufScalar | GgufArray;

/** A value that is not an array. */
export type GgufScalar = number | bigint | boolean | string;

/** An array in the metadata. */
export type GgufArray =
  | readonly string[]
  | readonly boolean[]
  | readonly GgufArray[]
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

/** What the header of a file says. */
export interface GgufHeader {
  /** 2 or 3; they differ only in that 3 knows of big-endian machines. */
  readonly version: number;
  /** The metadata by key, in file order. */
  readonly metadata: ReadonlyMap<string, GgufValue>;
  /** Tensors by name, in file order; shapes are row-major as everywhere in nibble, the reverse of how the file spells them. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** The byte of the file where the data begin. */
  readonly start: number;
  /** What the places of tensors are multiples of. */
  readonly alignment: number;
}

/** Types of the metadata by number: name, bytes, how to make an array of the bytes. */
const NUMBERS: ReadonlyMap<
  number,
  readonly [name: string, bytes: number, make: (data: ArrayBuffer) => NumberArray]
> = new Map([
  [0, ["u8", 1, (data) => new Uint8Array(data)]],
  [1, ["i8", 1, (data) => new Int8Array(data)]],
  [2, ["u16", 2, (data) => new Uint16Array(data)]],
  [3, ["i16", 2, (data) => new Int16Array(data)]],
  [4, ["u32", 4, (data) => new Uint32Array(data)]],
  [5, ["i32", 4, (data) => new Int32Array(data)]],
  [6, ["f32", 4, (data) => new Float32Array(data)]],
  [10, ["u64", 8, (data) => new BigUint64Array(data)]],
  [11, ["i64", 8, (data) => new BigInt64Array(data)]],
  [12, ["f64", 8, (data) => new Float64Array(data)]],
]);
type NumberArray = Exclude<GgufArray, readonly unknown[]>;
const [BOOL, STRING, ARRAY] = [7, 8, 9];

/** The most strings and arrays in the metadata: each takes memory beyond its bytes in the file. */
const MAX_ITEMS = 2_000_000;
/** The most keys, and the most tensors: the largest models have some thousands of tensors. */
const MAX_ENTRIES = 100_000;
/** The deepest arrays in arrays. llama.cpp has none at all. */
const MAX_DEPTH = 4;
/** ggml's limits. */
const [MAX_DIMENSIONS, MAX_NAME] = [4, 64];
/** The least bytes of a key with its value, and of a tensor's description: so many there can be at most. */
const [LEAST_PAIR, LEAST_TENSOR] = [13, 24];

/** Reads the metadata. */
class Metadata {
  readonly #cursor: Cursor;
  #items = 0;

  constructor(cursor: Cursor) {
    this.#cursor = cursor;
  }

  /** All keys and values. */
  read(count: number): Map<string, GgufValue> {
    const { path } = this.#cursor;
    const all = new Map<string, GgufValue>();
    for (let i = 0; i < count; i++) {
      const key = this.#cursor.text(`key ${i + 1} of ${count} in the metadata`);
      if (all.has(key)) {
        throw new SyntaxError(
          `Cannot read "${path}": its metadata has ${quote(key)} twice, wanted each key once`,
        );
      }
      const what = `the metadata's ${quote(key)}`;
      all.set(key, this.#value(this.#cursor.u32(what), what));
    }
    return all;
  }

  #value(type: number, what: string): GgufValue {
    if (type === STRING) return this.#cursor.text(what);
    if (type === BOOL) return this.#bools(1, what)[0];
    if (type === ARRAY) return this.#array(what, 1);
    const [value] = this.#numbers(type, 1, what);
    if (typeof value !== "bigint") return value;
    const number = Number(value);
    return Number.isSafeInteger(number) ? number : value;
  }

  #numbers(type: number, count: number, what: string): NumberArray {
    const found = NUMBERS.get(type);
    if (!found) {
      throw new SyntaxError(
        `Cannot read "${this.#cursor.path}": ${what} is of type ${type}, wanted 0 to 12; is the file damaged?`,
      );
    }
    const [, bytes, make] = found;
    return make(this.#cursor.bytes(count * bytes, what).buffer);
  }

  #bools(count: number, what: string): boolean[] {
    return Array.from(this.#cursor.bytes(count, what), (byte) => {
      if (byte <= 1) return byte === 1;
      throw new SyntaxError(
        `Cannot read "${this.#cursor.path}": ${what} is ${byte}, wanted 0 or 1 for true or false`,
      );
    });
  }

  #array(what: string, depth: number): GgufArray {
    const type = this.#cursor.u32(what);
    const length = this.#cursor.u64(what);
    const least = type === STRING ? 8 : type === ARRAY ? 12 : NUMBERS.get(type)?.[1] ?? 1;
    this.#cursor.check(length * BigInt(least), what);
    const count = Number(length);
    if (type !== STRING && type !== ARRAY && type !== BOOL) {
      return this.#numbers(type, count, what);
    }
    this.#items += count;
    if (this.#items > MAX_ITEMS || depth > MAX_DEPTH) {
      throw new RangeError(
        `Cannot read "${this.#cursor.path}": with ${what} its metadata has ${
          depth > MAX_DEPTH
            ? `arrays ${depth} deep, at most ${MAX_DEPTH}`
            : `${this.#items} strings, at most ${MAX_ITEMS}`
        } are allowed`,
      );
    }
    if (type === BOOL) return this.#bools(count, what);
    if (type === STRING) return Array.from({ length: count }, () => this.#cursor.text(what));
    return Array.from({ length: count }, () => this.#array(what, depth + 1));
  }
}

/** A name of the file's, short and printable. */
function quote(name: string): string {
  return JSON.stringify(name.length > 80 ? `${name.slice(0, 80)}…` : name);
}

/** What comes before keys and tensors: magic, version, counts. */
function readPrefix(cursor: Cursor): { version: number; tensors: number; pairs: number } {
  const { path, size } = cursor;
  const magic = cursor.bytes(Math.min(4, size), "the magic");
  if (String.fromCharCode(...magic) !== "GGUF") {
    const found = magic.length < 4 ? `${size} bytes` : quote(String.fromCharCode(...magic));
    throw new SyntaxError(
      `Cannot read "${path}": it begins with ${found}, a GGUF file with "GGUF"`,
    );
  }
  const version = cursor.u32("the version");
  if (version !== 2 && version !== 3) {
    const isSwapped = version === 0x02000000 || version === 0x03000000;
    throw new SyntaxError(
      `Cannot read "${path}": ${
        isSwapped ? "it is in big-endian order" : `it is of version ${version}`
      }, wanted version 2 or 3 in little-endian order; convert the model again with a current llama.cpp`,
    );
  }
  const tensors = cursor.u64("the number of tensors");
  const pairs = cursor.u64("the number of keys");
  cursor.check(
    tensors * BigInt(LEAST_TENSOR) + pairs * BigInt(LEAST_PAIR),
    `a header of ${tensors} tensors and ${pairs} keys`,
  );
  if (tensors > MAX_ENTRIES || pairs > MAX_ENTRIES) {
    throw new RangeError(
      `Cannot read "${path}": it has ${tensors} tensors and ${pairs} keys, at most ${MAX_ENTRIES} are allowed; is the file damaged?`,
    );
  }
  return { version, tensors: Number(tensors), pairs: Number(pairs) };
}

function readAlignment(path: string, metadata: ReadonlyMap<string, GgufValue>): number {
  const value = metadata.get("general.alignment") ?? 32;
  if (typeof value === "number" && Number.isInteger(Math.log2(value)) && value >= 1) return value;
  throw new RangeError(
    `Cannot read "${path}": its "general.alignment" is ${
      JSON.stringify(typeof value === "bigint" ? `${value}` : value)?.slice(0, 80)
    }, wanted a power of two such as 32`,
  );
}

function checkedType(path: string, name: string, id: number): GgufType {
  const type = ggufType(id);
  if (type) return type;
  throw new SyntaxError(
    `Cannot read ${
      quote(name)
    } in "${path}": its type is ${id}, which this version of nibble does not know`,
  );
}

/** One tensor's description; `begin` is checked later. */
function readEntry(cursor: Cursor, what: string, alignment: number): [string, TensorEntry] {
  const { path } = cursor;
  const name = cursor.text(`the name of ${what}`);
  if (name.length > MAX_NAME) {
    throw new SyntaxError(
      `Cannot read "${path}": the name of ${what} is ${
        quote(name)
      } of ${name.length} characters, wanted at most ${MAX_NAME}`,
    );
  }
  const rank = cursor.u32(what);
  if (rank > MAX_DIMENSIONS) {
    throw new SyntaxError(
      `Cannot read ${
        quote(name)
      } in "${path}": it has ${rank} axes, wanted at most ${MAX_DIMENSIONS}`,
    );
  }
  const lengths = Array.from({ length: rank }, () => cursor.u64(what));
  const type = checkedType(path, name, cursor.u32(what));
  const offset = cursor.u64(what);
  const size = lengths.reduce((product, length) => product * length, 1n);
  const row = lengths[0] ?? 1n;
  if (row % BigInt(type.block) !== 0n) {
    throw new RangeError(
      `Cannot read ${
        quote(name)
      } in "${path}": its rows have ${row} numbers, but ${type.name} is made of blocks of ${type.block}`,
    );
  }
  const bytes = size / BigInt(type.block) * BigInt(type.bytes);
  // Below the file's size every number that follows is exact; lengths beside a 0 are not bounded by the product.
  if (bytes + offset > cursor.size || lengths.some((length) => length > 2 ** 48)) {
    throw new RangeError(
      `Cannot read ${quote(name)} in "${path}": ${type.name} [${
        lengths.toReversed().join(",")
      }] from byte ${offset} of the data on takes ${bytes} bytes, but the file has ${cursor.size}; fetch it again`,
    );
  }
  const begin = Number(offset);
  if (begin % alignment !== 0) {
    throw new RangeError(
      `Cannot read ${
        quote(name)
      } in "${path}": it begins at byte ${begin} of the data, wanted a multiple of ${alignment}`,
    );
  }
  const shape = lengths.toReversed().map(Number);
  return [name, { dtype: type.name, shape, begin, end: begin + Number(bytes) }];
}

/** Tensors must lie inside the file, and none on another. */
function checkExtent(
  path: string,
  entries: ReadonlyMap<string, TensorEntry>,
  available: number,
): void {
  const sorted = [...entries].sort(([, a], [, b]) => a.begin - b.begin || a.end - b.end);
  let [before, at] = ["", 0];
  for (const [name, { dtype, shape, begin, end }] of sorted) {
    if (end > available) {
      throw new RangeError(
        `Cannot read ${quote(name)} in "${path}": ${dtype} ${
          showShape(shape)
        } ends at byte ${end} of the data, but the file has ${
          Math.max(0, available)
        }; fetch it again`,
      );
    }
    if (begin < at) {
      throw new RangeError(
        `Cannot read ${quote(name)} in "${path}": it begins at byte ${begin} of the data, but ${
          quote(before)
        } ends at ${at}; is the file damaged?`,
      );
    }
    [before, at] = [name, end];
  }
}

/** Reads and checks the header of an open file of `size` bytes. */
export function readGgufHeader(path: string, file: Deno.FsFile, size: number): GgufHeader {
  const cursor = new Cursor(path, file, size);
  const { version, tensors, pairs } = readPrefix(cursor);
  const metadata = new Metadata(cursor).read(pairs);
  const alignment = readAlignment(path, metadata);
  const entries = new Map<string, TensorEntry>();
  for (let i = 0; i < tensors; i++) {
    const [name, entry] = readEntry(cursor, `tensor ${i + 1} of ${tensors}`, alignment);
    if (entries.has(name)) {
      throw new SyntaxError(
        `Cannot read "${path}": it has the tensor ${quote(name)} twice, wanted each name once`,
      );
    }
    entries.set(name, entry);
  }
  const start = Math.ceil(cursor.position / alignment) * alignment;
  checkExtent(path, entries, size - start);
  return { version, metadata, entries, start, alignment };
}
