/**
 * Reading the header of a GGUF file from front to back. No length in the file is believed: before anything is allocated or read
 * it is compared with what the file still has.
 *
 * @module
 */
import { fill } from "./safetensors_header.ts";

/**
 * The most bytes of a header. The largest known vocabularies (260,000 tokens with their merges) take 16 MB; the limit keeps a
 * hostile file below 100 MB of memory.
 */
const MAX_HEADER = 40 * 1024 * 1024;

/** So many bytes are read at a time. */
const WINDOW = 256 * 1024;

/** A place in the header of an open file. */
export class Cursor {
  /** The path of the file, for errors. */
  readonly path: string;
  /** Bytes of the file. */
  readonly size: number;
  readonly #file: Deno.FsFile;
  #window = new Uint8Array(0);
  #view = new DataView(this.#window.buffer);
  /** The byte of the file where the window begins. */
  #start = 0;
  #at = 0;

  /** Begins at the first byte. */
  constructor(path: string, file: Deno.FsFile, size: number) {
    this.path = path;
    this.size = size;
    this.#file = file;
  }

  /** The next byte of the file. */
  get position(): number {
    return this.#start + this.#at;
  }

  /** Bytes that the header may still have. */
  get left(): number {
    return Math.min(this.size, MAX_HEADER) - this.position;
  }

  /** Throws unless the header can still have so many bytes; `what` says for what. */
  check(bytes: number | bigint, what: string): void {
    if (bytes <= this.left) return;
    if (this.size > MAX_HEADER && bytes <= this.size - this.position) {
      throw new RangeError(
        `Cannot read "${this.path}": with ${what} its header would have more than ${MAX_HEADER} bytes, the most that is allowed`,
      );
    }
    throw new RangeError(
      `Cannot read "${this.path}": ${what} at byte ${this.position} would take ${bytes} bytes, but the file ends at ${this.size}; ` +
        "fetch it again",
    );
  }

  /** Makes sure that the next bytes are in the window, and goes past them; gives where in the window they are. */
  #take(bytes: number, what: string): number {
    this.check(bytes, what);
    if (this.#at + bytes > this.#window.length) this.#refill(bytes);
    const at = this.#at;
    this.#at += bytes;
    return at;
  }

  #refill(bytes: number): void {
    const start = this.position;
    const length = Math.min(Math.max(bytes, WINDOW), this.size - start);
    const window = new Uint8Array(length);
    const kept = this.#window.subarray(this.#at);
    window.set(kept);
    if (!fill(this.#file, window.subarray(kept.length))) {
      throw new RangeError(
        `Cannot read "${this.path}": the file became shorter; it is being written?`,
      );
    }
    this.#window = window;
    this.#view = new DataView(window.buffer);
    this.#start = start;
    this.#at = 0;
  }

  /** The next bytes. */
  bytes(count: number, what: string): Uint8Array<ArrayBuffer> {
    const at = this.#take(count, what);
    return this.#window.slice(at, at + count);
  }

  /** A number of 32 bits. */
  u32(what: string): number {
    const at = this.#take(4, what); // may replace the view
    return this.#view.getUint32(at, true);
  }

  /** A number of 64 bits. */
  u64(what: string): bigint {
    const at = this.#take(8, what);
    return this.#view.getBigUint64(at, true);
  }

  /** UTF-8 text, behind its length of 64 bits. */
  text(what: string): string {
    const length = this.u64(what);
    this.check(length, what);
    const count = Number(length);
    const at = this.#take(count, what);
    // Most strings are tokens: short and ASCII, for which a decoder's call costs more than the bytes.
    if (count <= 24) {
      let text = "";
      let i = 0;
      for (; i < count && this.#window[at + i] < 128; i++) {
        text += String.fromCharCode(this.#window[at + i]);
      }
      if (i === count) return text;
    }
    try {
      return UTF8.decode(this.#window.subarray(at, at + count));
    } catch {
      throw new SyntaxError(
        `Cannot read "${this.path}": ${what} before byte ${this.position} is not UTF-8; is the file damaged?`,
      );
    }
  }
}

/** A byte order mark is kept: it can be a token. */
const UTF8 = new TextDecoder("utf-8", { fatal: true, ignoreBOM: true });
