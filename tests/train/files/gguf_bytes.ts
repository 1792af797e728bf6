/** Small GGUF files for tests, also such as no honest program writes. */

/** A value of the metadata by its type's name. */
export type Value =
  | { readonly [type in NumberType | "bool" | "string"]?: number | bigint | boolean | string }
  | {
    readonly array: string;
    readonly of: readonly (number | bigint | boolean | string | Value)[];
  };
type NumberType =
  | "u8"
  | "i8"
  | "u16"
  | "i16"
  | "u32"
  | "i32"
  | "f32"
  | "u64"
  | "i64"
  | "f64";

/** A tensor: `shape` row-major, `type` ggml's number. */
export interface TestTensor {
  readonly name: string;
  readonly type: number;
  readonly shape: readonly (number | bigint)[];
  readonly data: Uint8Array;
  /** Where it is said to lie; behind the one before by default. */
  readonly offset?: bigint;
}

/** What is in a file. */
export interface TestFile {
  readonly magic?: string;
  readonly version?: number;
  readonly metadata?: readonly (readonly [key: string, value: Value])[];
  readonly tensors?: readonly TestTensor[];
  readonly alignment?: number;
  readonly tensorCount?: bigint;
  readonly keyCount?: bigint;
}

const TYPES = [
  "u8",
  "i8",
  "u16",
  "i16",
  "u32",
  "i32",
  "f32",
  "bool",
  "string",
  "array",
  "u64",
  "i64",
  "f64",
];

class Bytes {
  readonly all: number[] = [];

  number(type: string, value: number | bigint | boolean): void {
    const view = new DataView(new ArrayBuffer(8));
    const number = Number(value);
    const big = typeof value === "bigint" ? value : Number.isInteger(number) ? BigInt(number) : 0n;
    const write: Record<string, () => number> = {
      u8: () => (view.setUint8(0, number), 1),
      bool: () => (view.setUint8(0, number), 1),
      i8: () => (view.setInt8(0, number), 1),
      u16: () => (view.setUint16(0, number, true), 2),
      i16: () => (view.setInt16(0, number, true), 2),
      u32: () => (view.setUint32(0, number, true), 4),
      i32: () => (view.setInt32(0, number, true), 4),
      f32: () => (view.setFloat32(0, number, true), 4),
      u64: () => (view.setBigUint64(0, big, true), 8),
      i64: () => (view.setBigInt64(0, big, true), 8),
      f64: () => (view.setFloat64(0, number, true), 8),
    };
    this.all.push(...new Uint8Array(view.buffer, 0, write[type]()));
  }

  text(text: string): void {
    const bytes = new TextEncoder().encode(text);
    this.number("u64", BigInt(bytes.length));
    for (const byte of bytes) this.all.push(byte);
  }

  /** A value without its type in front. */
  payload(type: string, value: unknown): void {
    if (type === "string") this.text(value as string);
    else if (type === "array") {
      const { array, of } = value as { array: string; of: readonly unknown[] };
      this.number("u32", TYPES.indexOf(array));
      this.number("u64", BigInt(of.length));
      for (const item of of) this.payload(array, item);
    } else this.number(type, value as number);
  }

  value(value: Value): void {
    const [type, own] = "array" in value ? ["array", value] : Object.entries(value)[0];
    this.number("u32", TYPES.indexOf(type as string));
    this.payload(type as string, own);
  }

  pad(alignment: number): void {
    while (this.all.length % alignment !== 0) this.all.push(0);
  }
}

/** The bytes of a file. */
export function ggufBytes(file: TestFile): Uint8Array<ArrayBuffer> {
  const { magic = "GGUF", version = 3, metadata = [], tensors = [], alignment = 32 } = file;
  const out = new Bytes();
  out.all.push(...new TextEncoder().encode(magic));
  out.number("u32", version);
  out.number("u64", file.tensorCount ?? BigInt(tensors.length));
  out.number("u64", file.keyCount ?? BigInt(metadata.length));
  for (const [key, value] of metadata) {
    out.text(key);
    out.value(value);
  }
  const data = new Bytes();
  for (const { name, type, shape, data: own, offset } of tensors) {
    data.pad(alignment);
    out.text(name);
    out.number("u32", shape.length);
    for (const length of shape.toReversed()) out.number("u64", BigInt(length));
    out.number("u32", type);
    out.number("u64", offset ?? BigInt(data.all.length));
    for (const byte of own) data.all.push(byte);
  }
  out.pad(alignment);
  const bytes = new Uint8Array(out.all.length + data.all.length);
  bytes.set(out.all);
  bytes.set(data.all, out.all.length);
  return bytes;
}

/** The bytes of f32 numbers. */
export function f32Bytes(...numbers: number[]): Uint8Array {
  return new Uint8Array(Float32Array.from(numbers).buffer);
}
