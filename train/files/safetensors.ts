/**
 * Safetensors files and checkpoints, read tensor by tensor.
 *
 * @module
 */
import { sizeOf } from "../../core/shape.ts";
import { FLOATS } from "./floats.ts";
import { readFault, readJsonOf, SHARDS_JSON } from "./input.ts";
import { brief } from "./json_text.ts";
import { fill, type Header, readHeader, type TensorEntry } from "./safetensors_header.ts";
import { tensorMemory } from "./tensor_memory.ts";

export type { TensorEntry };
export { type TensorData, writeSafetensors } from "./safetensors_write.ts";

/** Named tensors on disk: one safetensors file, or the shards of a checkpoint seen as one. */
export interface TensorSource extends Disposable {
  /** What is there, by tensor name, in file order. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** A tensor's bytes, little-endian and row-major, exactly as stored. Throws a RangeError for an unknown name. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** A floating-point tensor (F32, F16, BF16, F64, F8_E4M3, F8_E5M2) as f32. Throws a TypeError for other dtypes. */
  readFloats(name: string): Promise<Float32Array<ArrayBuffer>>;
  /**
   * The same, at most so many numbers at a time, each piece overwritten by the next one of any tensor: for tensors that
   * shall not be in memory whole. Without it they are.
   */
  floatPieces?(name: string, most: number): Iterable<Float32Array<ArrayBuffer>>;
  /** Closes the files. */
  close(): void;
}

/**
 * One open safetensors file; only its header is in memory.
 *
 * @example Reading one tensor
 * ```ts
 * import { SafetensorsFile, writeSafetensors } from "@nibble/nibble";
 *
 * const path = `${await Deno.makeTempDir()}/two.safetensors`;
 * await writeSafetensors(path, new Map([["w", { dtype: "F32", shape: [2], data: Float32Array.of(1, 2) }]]));
 * using file = await SafetensorsFile.open(path);
 * console.log(file.entries.get("w")?.shape, await file.readFloats("w")); // [ 2 ] Float32Array(2) [ 1, 2 ]
 * ```
 */
export class SafetensorsFile implements TensorSource {
  /** The path it was opened with. */
  readonly path: string;
  /** What is in it, by tensor name. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** The `__metadata__` of the header; empty where there is none. */
  readonly metadata: Readonly<Record<string, string>>;
  readonly #file: Deno.FsFile;
  readonly #start: number;
  /** A piece, and how it is stored: kept from tensor to tensor, as thousands of them would wait for the garbage collector. */
  #numbers = new Float32Array(0);
  #stored = new Uint8Array(0);

  private constructor(path: string, file: Deno.FsFile, header: Header) {
    this.path = path;
    this.entries = header.entries;
    this.metadata = header.metadata;
    this.#file = file;
    this.#start = header.start;
  }

  /**
   * Opens a file and checks its header.
   *
   * @throws {Error} if the file is missing or cannot be read.
   * @throws {SyntaxError} if it is too short, or its header is not the JSON that the format wants.
   * @throws {RangeError} if the header or a tensor reaches past the end of the file, or sizes do not fit shapes.
   */
  static async open(path: string): Promise<SafetensorsFile> {
    let file: Deno.FsFile;
    try {
      file = await Deno.open(path);
    } catch (error) {
      throw readFault(path, "the tensors in", error);
    }
    try {
      const info = await file.stat();
      if (info.isDirectory) throw readFault(path, "the tensors in", new Deno.errors.IsADirectory());
      return new SafetensorsFile(path, file, readHeader(path, file, info.size));
    } catch (error) {
      file.close();
      throw error;
    }
  }

  /**
   * A tensor's bytes, exactly as stored: little-endian, row-major.
   *
   * @throws {RangeError} for an unknown name.
   */
  read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return Promise.try(() => {
      const { begin, end } = entryOf(this.entries, name, this.path);
      const bytes = tensorMemory(Uint8Array, end - begin, name, this.path);
      this.#fill(name, begin, bytes);
      return bytes;
    });
  }

  #fill(name: string, from: number, bytes: Uint8Array): void {
    // Seek and read without a pause between, so that reads started together cannot take each other's place.
    this.#file.seekSync(this.#start + from, Deno.SeekMode.Start);
    if (fill(this.#file, bytes)) return;
    throw new RangeError(
      `Cannot read ${brief(name)} in "${this.path}": the file became shorter; it is being written?`,
    );
  }

  /**
   * A tensor of F32, F16, BF16, F64, F8_E4M3 or F8_E5M2 as f32.
   *
   * @throws {RangeError} for an unknown name.
   * @throws {TypeError} for another dtype.
   */
  readFloats(name: string): Promise<Float32Array<ArrayBuffer>> {
    return Promise.try(() => {
      const { shape } = entryOf(this.entries, name, this.path);
      const numbers = tensorMemory(Float32Array, sizeOf(shape), name, this.path);
      let at = 0;
      for (const piece of this.floatPieces(name, LARGEST_PIECE)) {
        numbers.set(piece, at);
        at += piece.length;
      }
      return numbers;
    });
  }

  /**
   * A tensor of F32, F16, BF16, F64, F8_E4M3 or F8_E5M2 as f32, so many numbers at a time: a piece is overwritten by the next one of any tensor.
   *
   * @throws {RangeError} for an unknown name.
   * @throws {TypeError} for another dtype.
   */
  *floatPieces(name: string, most: number): Generator<Float32Array<ArrayBuffer>> {
    const { dtype, shape, begin } = entryOf(this.entries, name, this.path);
    const widen = FLOATS.get(dtype);
    if (!widen) {
      throw new TypeError(
        `Cannot read ${brief(name)} in "${this.path}" as floats: it holds ${dtype}, wanted ${
          [...FLOATS.keys()].join(", ")
        }`,
      );
    }
    const size = sizeOf(shape);
    const longest = Math.min(most, size);
    if (this.#numbers.length < longest) {
      this.#numbers = new Float32Array(longest);
      this.#stored = new Uint8Array(8 * longest);
    }
    for (let at = 0; at < size; at += longest) {
      const count = Math.min(longest, size - at);
      const piece = this.#numbers.subarray(0, count);
      const bytes = this.#stored.subarray(0, count * widen.bytes);
      this.#fill(name, begin + at * widen.bytes, bytes);
      widen.to(bytes, piece);
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

/** Numbers converted at a time by `readFloats`. */
const LARGEST_PIECE = 1 << 20;

function entryOf(
  entries: ReadonlyMap<string, TensorEntry>,
  name: string,
  path: string,
): TensorEntry {
  const entry = entries.get(name);
  if (entry) return entry;
  const some = [...entries.keys()].slice(0, 5).map((key) => brief(key)).join(", ");
  throw new RangeError(
    `Cannot read ${brief(name)}: "${path}" has ${entries.size} tensors, such as ${some || "none"}`,
  );
}

/** The shards of a checkpoint as one source. */
class Shards implements TensorSource {
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly #path: string;
  readonly #files: readonly SafetensorsFile[];
  readonly #fileOf = new Map<string, SafetensorsFile>();

  constructor(path: string, files: readonly SafetensorsFile[]) {
    const entries = new Map<string, TensorEntry>();
    for (const file of files) {
      for (const [name, entry] of file.entries) {
        const other = this.#fileOf.get(name);
        if (other) {
          throw new RangeError(
            `Cannot open the model in "${path}": ${
              brief(name)
            } is in "${other.path}" and in "${file.path}", wanted each tensor once`,
          );
        }
        entries.set(name, entry);
        this.#fileOf.set(name, file);
      }
    }
    this.entries = entries;
    this.#path = path;
    this.#files = files;
  }

  async read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    entryOf(this.entries, name, this.#path);
    return await this.#fileOf.get(name)!.read(name);
  }

  async readFloats(name: string): Promise<Float32Array<ArrayBuffer>> {
    entryOf(this.entries, name, this.#path);
    return await this.#fileOf.get(name)!.readFloats(name);
  }

  floatPieces(name: string, most: number): Iterable<Float32Array<ArrayBuffer>> {
    entryOf(this.entries, name, this.#path);
    return this.#fileOf.get(name)!.floatPieces(name, most);
  }

  close(): void {
    for (const file of this.#files) file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

async function exists(path: string): Promise<boolean> {
  try {
    await Deno.stat(path);
    return true;
  } catch {
    return false;
  }
}

/**
 * The tensors of a model folder: `model.safetensors`, or the shards that `model.safetensors.index.json` names.
 *
 * @throws {Error} if neither is there, or a shard is missing.
 * @throws {SyntaxError} if the index or a header is not as it should be.
 * @throws {RangeError} if a file is truncated, or a shard lacks a tensor that the index places in it.
 *
 * @example
 * ```ts
 * import { openCheckpoint, writeSafetensors } from "@nibble/nibble";
 *
 * const folder = await Deno.makeTempDir();
 * const w = { dtype: "F32", shape: [1], data: Float32Array.of(3) };
 * await writeSafetensors(`${folder}/model.safetensors`, new Map([["w", w]]));
 * using source = await openCheckpoint(folder);
 * console.log([...source.entries.keys()]); // [ "w" ]
 * ```
 */
export async function openCheckpoint(folder: string): Promise<TensorSource> {
  const whole = `${folder}/model.safetensors`;
  if (await exists(whole)) return await SafetensorsFile.open(whole);
  const path = `${folder}/model.safetensors.index.json`;
  if (!await exists(path)) {
    const found = await Deno.stat(folder).catch(() => null);
    const reason = !found
      ? "there is no such folder"
      : found.isDirectory
      ? "it has neither model.safetensors nor model.safetensors.index.json"
      : "it is a file, wanted a folder";
    throw new Error(`Cannot open the model in "${folder}": ${reason}; check the path`);
  }
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const [tensor, name] of await readIndex(path)) {
      if (!files.has(name)) files.set(name, await SafetensorsFile.open(`${folder}/${name}`));
      if (!files.get(name)!.entries.has(tensor)) {
        throw new RangeError(
          `Cannot open the model in "${folder}": "${name}" lacks ${
            brief(tensor)
          }, which the index places there`,
        );
      }
    }
    return new Shards(folder, [...files.values()]);
  } catch (error) {
    for (const file of files.values()) file.close();
    throw error;
  }
}

/** The longest name of a file on any common file system, in bytes or characters. */
const LONGEST_NAME = 255;

/** Which file a tensor is in, as an index says. */
async function readIndex(path: string): Promise<[tensor: string, file: string][]> {
  const index = await readJsonOf(path, "the list of shards", SHARDS_JSON);
  const map = index.weight_map;
  const isMap = typeof map === "object" && map !== null && !Array.isArray(map);
  const all = isMap ? Object.entries(map) : [];
  // A shard lies in the folder itself: an index must not lead anywhere else.
  const bad = all.find(([, file]) =>
    typeof file !== "string" || /[/\\:\0]|^\.{0,2}$/.test(file) || file.length > LONGEST_NAME
  );
  if (all.length > 0 && !bad) return all;
  throw new SyntaxError(
    `Cannot read the list of shards "${path}": ${
      bad ? `${brief(bad[0])} lies in ${brief(bad[1])}` : "its weight_map names no tensor"
    }, wanted {"weight_map": {tensor: file name}}`,
  );
}
