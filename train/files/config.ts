/**
 * A model's config.json, as Hugging Face's transformers writes it: what every architecture has, and how its fields are read.
 *
 * @module
 */
import { readJsonOf, SMALL_JSON } from "./input.ts";
import { brief } from "./json_text.ts";
import type { Json } from "./tokenizer.ts";

/** The sizes that every language model has. Architectures add their own. */
export interface ModelConfig {
  /** The architecture, such as "llama" or "gpt2". */
  readonly modelType: string;
  /** Rows of the embedding. */
  readonly vocabSize: number;
  /** Width of the residual stream. */
  readonly hiddenSize: number;
  /** Width of the feed-forward layers. */
  readonly intermediateSize: number;
  /** How many blocks. */
  readonly layers: number;
  /** Query heads in a block. */
  readonly heads: number;
  /** Key and value heads in a block; divides `heads`. */
  readonly kvHeads: number;
  /** Width of a head. */
  readonly headSize: number;
  /** Added to the mean square, or to the variance, in each normalization. */
  readonly normEpsilon: number;
  /** The most positions: prompt and answer together. */
  readonly contextLength: number;
  /** Whether the output layer is the embedding itself. */
  readonly tiedEmbeddings: boolean;
  /** Deviation of random weights. */
  readonly initializerRange: number;
}

/** More blocks than any model has; without a bound, a broken file could ask for more weights than names fit in memory. */
const MOST_LAYERS = 10_000;

/** Takes fields out of a parsed config.json, with errors that name the file and the field. */
export class ConfigFields {
  /** What was parsed. */
  readonly json: Json;
  /** The file's name, for errors. */
  readonly path: string;
  readonly #prefix: string;

  /** `prefix` goes before field names in errors: `rope_parameters.`. */
  constructor(json: Json, path: string, prefix = "") {
    this.json = json;
    this.path = path;
    this.#prefix = prefix;
  }

  /** The error about a field. */
  fault(field: string, wanted: string): TypeError {
    const found = brief(this.json[field]);
    return new TypeError(
      `Cannot read the model's configuration "${this.path}": "${this.#prefix}${field}" is ${found}, wanted ${wanted}`,
    );
  }

  /** A whole number above 0. */
  count(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.fault(field, "a whole number above 0");
  }

  /** How many blocks. */
  layers(field: string, fallback?: number): number {
    const value = this.count(field, fallback);
    if (value <= MOST_LAYERS) return value;
    throw this.fault(field, `at most ${MOST_LAYERS} layers`);
  }

  /** The width of a head: in a field, or as it follows from others. */
  headSize(field: string, fallback: number): number {
    const size = this.json[field] ?? fallback;
    const isFine = typeof size === "number" && size > 0 && size % 4 === 0 && size <= 256;
    if (isFine) return size;
    throw new TypeError(
      `Cannot read the model's configuration "${this.path}": its attention heads are ${
        brief(size)
      } wide, wanted a multiple of 4, at most 256`,
    );
  }

  /** A number above 0. */
  number(field: string, fallback?: number): number {
    const value = this.json[field] ?? fallback;
    if (typeof value === "number" && Number.isFinite(value) && value > 0) return value;
    throw this.fault(field, "a number above 0");
  }

  /** True or false. */
  flag(field: string, fallback: boolean): boolean {
    const value = this.json[field] ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.fault(field, "true or false");
  }

  /** Throws unless a field has one of the values that nibble computes, or is not there. */
  only(field: string, ...values: readonly (string | number | boolean)[]): void {
    const value = this.json[field] ?? values[0];
    if (values.includes(value as string)) return;
    throw this.fault(field, values.map((own) => JSON.stringify(own)).join(" or "));
  }

  /** The object in a field, or null. */
  section(field: string): ConfigFields | null {
    const value = this.json[field] ?? null;
    if (value === null) return null;
    if (typeof value !== "object" || Array.isArray(value)) throw this.fault(field, "an object");
    return new ConfigFields(value as Json, this.path, `${this.#prefix}${field}.`);
  }
}

/** Reads a model folder's config.json. */
export async function readConfig(folder: string): Promise<{ json: Json; path: string }> {
  const path = `${folder}/config.json`;
  return { json: await readJsonOf(path, "the model's configuration", SMALL_JSON), path };
}
