/**
 * Taking values out of a GGUF file's metadata, with errors that name the file and the key.
 *
 * @module
 */
import type { GgufValue } from "./gguf_header.ts";

/** A value as an error shows it: short, on one line. */
export function showValue(value: GgufValue | undefined): string {
  if (value === undefined) return "missing";
  if (typeof value === "object") return `an array of ${value.length}`;
  const text = typeof value === "bigint" ? `${value}` : JSON.stringify(value);
  return text.length > 80 ? `${text.slice(0, 80)}…` : text;
}

/** The metadata of one file. */
export class GgufFields {
  readonly #metadata: ReadonlyMap<string, GgufValue>;
  readonly #path: string;

  /** Of an open file, or of its path and metadata. */
  constructor({ path, metadata }: { path: string; metadata: ReadonlyMap<string, GgufValue> }) {
    this.#path = path;
    this.#metadata = metadata;
  }

  /** Whether the key is there. */
  has(key: string): boolean {
    return this.#metadata.has(key);
  }

  /** The error for a key whose value is not what it should be. */
  fault(key: string, wanted: string): TypeError {
    return new TypeError(
      `Cannot use "${this.#path}": its metadata "${key}" is ${
        showValue(this.#metadata.get(key))
      }, wanted ${wanted}`,
    );
  }

  /** A whole number above 0; where the key is not there, `fallback` or an error. */
  count(key: string, fallback?: number): number {
    const value = this.#metadata.get(key) ?? fallback;
    if (typeof value === "number" && Number.isSafeInteger(value) && value > 0) return value;
    throw this.fault(key, "a whole number above 0");
  }

  /** A number above 0; where the key is not there, `fallback` or an error. */
  number(key: string, fallback?: number): number {
    const value = this.#metadata.get(key) ?? fallback;
    if (typeof value === "number" && value > 0 && value < Infinity) return shortest(value);
    throw this.fault(key, "a number above 0");
  }

  /** True or false; where the key is not there, `fallback`. */
  flag(key: string, fallback: boolean): boolean {
    const value = this.#metadata.get(key) ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.fault(key, "true or false");
  }

  /** Text, or `undefined` where the key is not there. */
  text(key: string): string | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined || typeof value === "string") return value;
    throw this.fault(key, "text");
  }

  /** An array of strings. */
  words(key: string): readonly string[] {
    const value = this.#metadata.get(key);
    if (Array.isArray(value) && (value.length === 0 || typeof value[0] === "string")) {
      return value as readonly string[];
    }
    throw this.fault(key, "an array of strings");
  }

  /** An array of `length` numbers, or `undefined` where the key is not there. */
  numbers(key: string, length: number): ArrayLike<number> | undefined {
    const value = this.#metadata.get(key);
    if (value === undefined) return undefined;
    if (
      ArrayBuffer.isView(value) && !(value instanceof BigUint64Array) &&
      !(value instanceof BigInt64Array) && value.length === length
    ) return value;
    throw this.fault(key, `an array of ${length} numbers`);
  }

  /** The id of a token below `tokens`, or null where the key is not there. */
  token(key: string, tokens: number): number | null {
    const value = this.#metadata.get(key);
    if (value === undefined) return null;
    if (typeof value === "number" && Number.isInteger(value) && value >= 0 && value < tokens) {
      return value;
    }
    throw this.fault(key, `the id of one of ${tokens} tokens`);
  }
}

/** What was 1e-5 before it was stored in 32 bits shall be 1e-5 in a config.json, and is the same number in 32 bits. */
function shortest(value: number): number {
  const short = Number(value.toPrecision(7));
  return Math.fround(short) === value ? short : value;
}
