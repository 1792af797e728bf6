/**
 * Models in GGUF files, seen as Hugging Face has them: its configuration, names, order of rows, and tokenizer.
 *
 * @module
 */
import { GgufFile, type RowOrder } from "../files/gguf.ts";
import { ggufTokenizer } from "../files/gguf_tokenizer.ts";
import { type GgufBlockType, isGgufBlockType } from "../../kernels/quant/gguf_types.ts";
import type { TensorSource } from "../files/safetensors.ts";
import type { TensorEntry } from "../files/safetensors_header.ts";
import type { Json, Tokenizer } from "../files/tokenizer.ts";
import { architectureOf, ggufConfig } from "./gguf_config.ts";
import type { WeightSpec } from "./architecture.ts";
import { HUB_BLOCK_NAMES, HUB_NAMES } from "./gguf_names.ts";
import type { LoadOptions } from "./load_options.ts";

/** Tensors that are tables made from the configuration. */
const TABLES: ReadonlySet<string> = new Set(["rope_freqs.weight"]);

/** Hugging Face's name of a tensor, or null. */
function nameOf(own: string): string | null {
  const [, block, stem, end] = /^(?:blk\.(\d+)\.)?(\w+)\.(weight|bias)$/.exec(own) ?? [];
  const name = (block === undefined ? HUB_NAMES : HUB_BLOCK_NAMES).get(stem);
  if (!name) return null;
  return block === undefined ? `${name}.${end}` : `model.layers.${Number(block)}.${name}.${end}`;
}

/**
 * Which row of the file is row `row` of Hugging Face's q or k. llama.cpp rotates neighbouring rows of a head together, transformers
 * row j with row j + half; so its file has rows 0, half, 1, half + 1, …
 */
function storedRow(row: number, headSize: number): number {
  const inHead = row % headSize;
  const half = headSize / 2;
  return row - inHead + 2 * (inHead % half) + Math.floor(inHead / half);
}

/** The tensors of a file under Hugging Face's names and in its order of rows. */
export class GgufWeights implements TensorSource {
  readonly entries: ReadonlyMap<string, TensorEntry>;
  readonly #file: GgufFile;
  readonly #names = new Map<string, string>();
  /** The width of the heads in q and k, or 0 where their rows are in order. */
  readonly #headSize: number;

  constructor(file: GgufFile, headSize: number) {
    this.#file = file;
    this.#headSize = headSize;
    const entries = new Map<string, TensorEntry>();
    const unknown: string[] = [];
    for (const [own, entry] of file.entries) {
      const name = nameOf(own);
      if (name) {
        entries.set(name, entry);
        this.#names.set(name, own);
      } else if (!TABLES.has(own)) unknown.push(own);
    }
    if (unknown.length > 0) {
      throw new RangeError(
        `Cannot use "${file.path}": it has ${unknown.length} tensors that such a model does not have: ${
          unknown.slice(0, 5).join(", ")
        }${unknown.length > 5 ? ", …" : ""}`,
      );
    }
    this.entries = entries;
  }

  /** The order of a tensor's rows, where it is not the file's. */
  #order(name: string): RowOrder | undefined {
    const headSize = this.#headSize;
    if (!headSize || !/\.[qk]_proj\.\w+$/.test(name)) return undefined;
    return (row) => storedRow(row, headSize);
  }

  #own(name: string): string {
    return this.#names.get(name) ?? name;
  }

  read(name: string): Promise<Uint8Array<ArrayBuffer>> {
    return this.#file.read(this.#own(name), this.#order(name));
  }

  async readFloats(name: string): Promise<Float32Array<ArrayBuffer>> {
    const numbers = await this.#file.readFloats(this.#own(name), this.#order(name));
    const wrong = numbers.findIndex((number) => !Number.isFinite(number));
    if (wrong >= 0) {
      throw new RangeError(
        `Cannot read "${this.#own(name)}" in "${this.#file.path}": number ${wrong} is ${
          numbers[wrong]
        }; the model is damaged, fetch or convert it again`,
      );
    }
    return numbers;
  }

  floatPieces(name: string, most: number): Iterable<Float32Array<ArrayBuffer>> {
    return this.#file.floatPieces(this.#own(name), most, this.#order(name));
  }

  /** A tensor's blocks as they are, a piece at a time; each is overwritten by the next one of any tensor. */
  bytePieces(name: string): Iterable<Uint8Array<ArrayBuffer>> {
    return this.#file.bytePieces(this.#own(name), this.#order(name));
  }

  close(): void {
    this.#file.close();
  }

  [Symbol.dispose](): void {
    this.close();
  }
}

/** A model in a GGUF file, opened. Close `source` at the end. */
export interface GgufModel {
  /** The config.json that a Hugging Face folder of it would have. */
  readonly json: Json;
  /** Its weights under Hugging Face's names, and in the order of rows that transformers has. */
  readonly source: GgufWeights;
  /** Its tokenizer, or null where nibble does not know its kind. */
  readonly tokenizer: Tokenizer | null;
  /** What should be said of it. */
  readonly notes: readonly string[];
}

/** A model whose tokenizer is unknown is of use all the same: token ids can be given. The note says why there is none. */
function tokenizerOf(file: GgufFile, notes: string[]): Tokenizer | null {
  try {
    return ggufTokenizer(file);
  } catch (error) {
    if (!(error instanceof TypeError)) throw error;
    notes.push(`The model has no tokenizer: ${error.message}`);
    return null;
  }
}

/**
 * Opens the model in a GGUF file.
 *
 * @throws {Error} if the file cannot be read.
 * @throws {SyntaxError} if it is not a GGUF file.
 * @throws {TypeError} if the architecture is not known, or a value of the metadata makes no sense.
 * @throws {RangeError} if a length does not fit, or a tensor has no place in such a model.
 */
export async function openGgufModel(path: string): Promise<GgufModel> {
  const file = await GgufFile.open(path);
  try {
    const architecture = architectureOf(file);
    const json = await ggufConfig(file, architecture);
    const source = new GgufWeights(file, architecture.permuted ? json.head_dim as number : 0);
    const notes: string[] = [];
    return { json, source, tokenizer: tokenizerOf(file, notes), notes };
  } catch (error) {
    file.close();
    throw error;
  }
}

/** Types that f32 holds as they are. */
const PLAIN: ReadonlySet<string> = new Set(["F32", "F16", "BF16"]);

/** The type of the blocks that a weight stays in, or null where it is decoded: see `loadModel`. */
export function storedBlocks(
  source: TensorSource,
  name: string,
  { role }: Pick<WeightSpec, "role">,
  { quantize, dequantize, trainable }: LoadOptions,
): GgufBlockType | null {
  if (role !== "linear" || quantize || dequantize || trainable === "all") return null;
  const { dtype } = source.entries.get(name)!;
  return isGgufBlockType(dtype) ? dtype : null;
}

/** Which of a file's quantized weights were kept, and which converted to what, a line for each type. */
export function conversionNotes(
  { source }: GgufModel,
  specs: ReadonlyMap<string, WeightSpec>,
  options: LoadOptions,
): string[] {
  const counts = new Map<string, number>();
  for (const [name, spec] of specs) {
    const { dtype } = source.entries.get(name)!;
    if (PLAIN.has(dtype)) continue;
    const to = storedBlocks(source, name, spec, options)
      ? "kept"
      : spec.role === "linear" && options.quantize
      ? `decoded and quantized to ${options.quantize}`
      : "decoded to f32";
    const line = `stored as ${dtype}: ${to}`;
    counts.set(line, (counts.get(line) ?? 0) + 1);
  }
  return [...counts].map(([line, count]) =>
    `${count} ${count === 1 ? "weight" : "weights"} ${line}`
  );
}
