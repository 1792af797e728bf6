/**
 * Safetensors files and checkpoints, read tensor by tensor and written with the byte layout of the safetensors library
 * (github.com/huggingface/safetensors, `safetensors/src/tensor.rs`).
 *
 * @module
 */
import { showShape } from "../../core/shape.ts";
import { readFault, readJsonOf } from "./input.ts";
import { replaceFile } from "./output.ts";
import {
  bytesOf,
  DTYPES,
  fill,
  type Header,
  known,
  readHeader,
  type TensorEntry,
} from "./safetensors_header.ts";

export type { TensorEntry };

/** Named tensors on disk: one safetensors file, or the shards of a checkpoint seen as one. */
export interface TensorSource extends Disposable {
  /** What is there, by tensor name, in file order. */
  readonly entries: ReadonlyMap<string, TensorEntry>;
  /** A tensor's bytes, little-endian and row-major, exactly as stored. Throws a RangeError for an unknown name. */
  read(name: string): Promise<Uint8Array<ArrayBuffer>>;
  /** A floating-point tensor (F32, F16, BF16, F64) as f32. Throws a TypeError for other dtypes. */
  readFloats(name: string): Promise<Float32Array<ArrayBuffer>>;
  /** Closes the files. */
  close(): void;
}

/** A tensor to write. */
export interface TensorData {
  /** As the format spells it: "F32", "BF16", "U8". */
  readonly dtype: string;
  /** Lengths of the axes; empty for a scalar. */
  readonly shape: readonly number[];
  /** Little-endian, row-major and as long as dtype and shape say. */
  readonly data: ArrayBufferView;
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
      const bytes = new Uint8Array(end - begin);
      // Seek and read without a pause between, so that reads started together cannot take each other's place.
      this.#file.seekSync(this.#start + begin, Deno.SeekMode.Start);
      if (!fill(this.#file, bytes)) {
        throw new RangeError(
          `Cannot read "${name}" in "${this.path}": the file became shorter; it is being written?`,
        );
      }
      return bytes;
    });
  }

  /**
   * A tensor of F32, F16, BF16 or F64 as f32.
   *
   * @throws {RangeError} for an unknown name.
   * @throws {TypeError} for another dtype.
   */
  async readFloats(name: string): Promise<Float32Array<ArrayBuffer>> {
    const { dtype } = entryOf(this.entries, name, this.path);
    if (!FLOATS.has(dtype)) {
      throw new TypeError(
        `Cannot read "${name}" in "${this.path}" as floats: it holds ${dtype}, wanted ${
          [...FLOATS.keys()].join(", ")
        }`,
      );
    }
    return FLOATS.get(dtype)!((await this.read(name)).buffer);
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

const FLOATS: ReadonlyMap<string, (bytes: ArrayBuffer) => Float32Array<ArrayBuffer>> = new Map([
  ["F32", (bytes) => new Float32Array(bytes)],
  ["F16", (bytes) => new Float32Array(new Float16Array(bytes))],
  ["BF16", (bytes) => {
    const bits = new Uint32Array(bytes.byteLength / 2);
    new Uint16Array(bytes).forEach((half, i) => bits[i] = half << 16);
    return new Float32Array(bits.buffer);
  }],
  ["F64", (bytes) => new Float32Array(new Float64Array(bytes))],
]);

function entryOf(
  entries: ReadonlyMap<string, TensorEntry>,
  name: string,
  path: string,
): TensorEntry {
  const entry = entries.get(name);
  if (entry) return entry;
  const some = [...entries.keys()].slice(0, 5).map((key) => `"${key}"`).join(", ");
  throw new RangeError(
    `Cannot read "${name}": "${path}" has ${entries.size} tensors, such as ${some || "none"}`,
  );
}

/**
 * Writes a safetensors file whole (temporary name, then rename). The same tensors and metadata give the same bytes, whatever
 * the order of the map, and those are the bytes of the safetensors library.
 *
 * @throws {TypeError} if a dtype is unknown.
 * @throws {RangeError} if a tensor's bytes do not fit its shape.
 * @throws {Error} if the file cannot be written.
 *
 * @example A file that Python opens with `safetensors.torch.load_file`
 * ```ts
 * import { writeSafetensors } from "@nibble/nibble";
 *
 * const data = new Float32Array(6);
 * const path = `${await Deno.makeTempDir()}/zeros.safetensors`;
 * await writeSafetensors(path, new Map([["zeros", { dtype: "F32", shape: [2, 3], data }]]));
 * ```
 */
export async function writeSafetensors(
  path: string,
  tensors: ReadonlyMap<string, TensorData>,
  metadata: Readonly<Record<string, string>> = { format: "pt" },
): Promise<void> {
  const sorted = [...tensors].sort(([a, one], [b, other]) =>
    DTYPES.indexOf(other.dtype) - DTYPES.indexOf(one.dtype) || (a < b ? -1 : a > b ? 1 : 0)
  );
  const entries: [string, unknown][] = [["__metadata__", metadata]];
  let end = 0;
  for (const [name, { dtype, shape, data }] of sorted) {
    const wanted = bytesOf(dtype, shape);
    if (wanted === null) {
      throw new TypeError(
        `Cannot write "${name}" to "${path}": the dtype "${dtype}" is not one of ${known()}`,
      );
    }
    if (data.byteLength !== wanted) {
      throw new RangeError(
        `Cannot write "${name}" to "${path}": it has ${data.byteLength} bytes, but ${dtype} ${
          showShape(shape)
        } takes ${wanted}`,
      );
    }
    entries.push([name, { dtype, shape, data_offsets: [end, end += wanted] }]);
  }
  // Assembled by hand: an object would move keys such as "0" to the front.
  const fields = entries.map(([name, value]) => `${JSON.stringify(name)}:${JSON.stringify(value)}`);
  const json = new TextEncoder().encode(`{${fields.join(",")}}`);
  const header = new Uint8Array(8 + Math.ceil(json.length / 8) * 8).fill(0x20);
  new DataView(header.buffer).setBigUint64(0, BigInt(header.length - 8), true);
  header.set(json, 8);
  await replaceFile(path, async (temporary) => {
    try {
      using file = await Deno.open(temporary, { write: true, create: true, truncate: true });
      writeAll(file, header);
      for (const [, { data }] of sorted) {
        writeAll(file, new Uint8Array(data.buffer, data.byteOffset, data.byteLength));
      }
    } catch (error) {
      throw new Error(`Cannot write "${path}": ${(error as Error).message}`, { cause: error });
    }
  });
}

function writeAll(file: Deno.FsFile, bytes: Uint8Array): void {
  for (let at = 0; at < bytes.length;) at += file.writeSync(bytes.subarray(at));
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
    const reason = await exists(folder)
      ? "it has neither model.safetensors nor model.safetensors.index.json"
      : "there is no such folder";
    throw new Error(`Cannot open the model in "${folder}": ${reason}; check the path`);
  }
  const index = await readJsonOf(path, "the list of shards");
  const map = Object.entries(Object(index.weight_map)) as [string, unknown][];
  // A shard lies in the folder itself: an index must not lead anywhere else.
  const bad = map.find(([, file]) => typeof file !== "string" || /[/\\]|^\.\.?$/.test(file));
  if (map.length === 0 || bad) {
    throw new SyntaxError(
      `Cannot read the list of shards "${path}": ${
        bad ? `"${bad[0]}" lies in ${JSON.stringify(bad[1])}` : "its weight_map names no tensor"
      }, wanted {"weight_map": {tensor: file name}}`,
    );
  }
  const files = new Map<string, SafetensorsFile>();
  try {
    for (const [tensor, name] of map as [string, string][]) {
      if (!files.has(name)) files.set(name, await SafetensorsFile.open(`${folder}/${name}`));
      if (!files.get(name)!.entries.has(tensor)) {
        throw new RangeError(
          `Cannot open the model in "${folder}": "${name}" lacks "${tensor}", which the index places there`,
        );
      }
    }
  } catch (error) {
    for (const file of files.values()) file.close();
    throw error;
  }
  return new Shards(folder, [...files.values()]);
}
