/**
 * A model's config.json, as Hugging Face's transformers writes it, in nibble's words.
 *
 * @module
 */
import { readJsonOf } from "./input.ts";
import type { Json } from "./tokenizer.ts";

/** The sizes of a decoder of Llama's kind, and how it counts positions. */
export interface ModelConfig {
  /** The architecture: "llama", "mistral" or "qwen2". */
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
  /** Added to the mean square in each normalization. */
  readonly normEpsilon: number;
  /** The base of RoPE's wave lengths. */
  readonly ropeTheta: number;
  /** The most positions: prompt and answer together. */
  readonly contextLength: number;
  /** Whether the output layer is the embedding itself. */
  readonly tiedEmbeddings: boolean;
  /** Whether q, k and v (and with "all" also o) have biases. */
  readonly attentionBias: "none" | "qkv" | "all";
  /** Whether the feed-forward layers have biases. */
  readonly mlpBias: boolean;
  /** Deviation of random weights. */
  readonly initializerRange: number;
}

const ARCHITECTURES = ["llama", "mistral", "qwen2"];

/** Takes fields out of a JSON object, with errors that name the file and the field. */
class Fields {
  readonly #json: Json;
  readonly #path: string;

  constructor(json: Json, path: string) {
    this.#json = json;
    this.#path = path;
  }

  fault(field: string, wanted: string): TypeError {
    const found = JSON.stringify(this.#json[field]) ?? "nothing";
    return new TypeError(
      `Cannot read the model's configuration "${this.#path}": "${field}" is ${found}, wanted ${wanted}`,
    );
  }

  count(field: string, fallback?: number): number {
    const value = this.#json[field] ?? fallback;
    if (Number.isSafeInteger(value) && (value as number) > 0) return value as number;
    throw this.fault(field, "a whole number above 0");
  }

  number(field: string, fallback: number): number {
    const value = this.#json[field] ?? fallback;
    if (typeof value === "number" && value > 0) return value;
    throw this.fault(field, "a number above 0");
  }

  flag(field: string, fallback: boolean): boolean {
    const value = this.#json[field] ?? fallback;
    if (typeof value === "boolean") return value;
    throw this.fault(field, "true or false");
  }
}

/** RoPE's base: `rope_parameters.rope_theta` since transformers 5, `rope_theta` before. Scaled variants are refused. */
function ropeThetaOf(json: Json, fields: Fields): number {
  const rope = (json.rope_parameters ?? json.rope_scaling ?? {}) as Json;
  const kind = rope.rope_type ?? rope.type ?? "default";
  if (kind !== "default") {
    throw fields.fault(
      json.rope_parameters ? "rope_parameters" : "rope_scaling",
      'a rope_type of "default"; scaled positions are not supported yet',
    );
  }
  const theta = rope.rope_theta;
  return typeof theta === "number" && theta > 0 ? theta : fields.number("rope_theta", 10_000);
}

/**
 * Reads the content of a config.json.
 *
 * @param json the parsed file
 * @param path its name, for errors
 * @throws {TypeError} if the architecture is not supported, or a field is missing or makes no sense
 *
 * @example
 * ```ts
 * import { parseConfig } from "@nibble/nibble";
 *
 * const config = parseConfig({
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 *   num_key_value_heads: 2,
 * });
 * console.log(config.headSize, config.ropeTheta); // 16 10000
 * ```
 */
export function parseConfig(json: Json, path = "config.json"): ModelConfig {
  const fields = new Fields(json, path);
  const modelType = json.model_type;
  if (typeof modelType !== "string" || !ARCHITECTURES.includes(modelType)) {
    throw fields.fault("model_type", `one of ${ARCHITECTURES.join(", ")}`);
  }
  const activation = json.hidden_act ?? "silu";
  if (activation !== "silu") throw fields.fault("hidden_act", '"silu"');
  const hiddenSize = fields.count("hidden_size");
  const heads = fields.count("num_attention_heads");
  const kvHeads = fields.count("num_key_value_heads", heads);
  if (heads % kvHeads !== 0) {
    throw fields.fault("num_key_value_heads", `a divisor of the ${heads} attention heads`);
  }
  const headSize = fields.count("head_dim", hiddenSize / heads);
  if (headSize % 4 !== 0) throw fields.fault("head_dim", "a multiple of 4");
  const bias = fields.flag("attention_bias", false);
  return {
    modelType,
    vocabSize: fields.count("vocab_size"),
    hiddenSize,
    intermediateSize: fields.count("intermediate_size"),
    layers: fields.count("num_hidden_layers"),
    heads,
    kvHeads,
    headSize,
    normEpsilon: fields.number("rms_norm_eps", modelType === "llama" ? 1e-6 : 1e-5),
    ropeTheta: ropeThetaOf(json, fields),
    contextLength: fields.count("max_position_embeddings", 2048),
    tiedEmbeddings: fields.flag("tie_word_embeddings", false),
    attentionBias: modelType === "qwen2" ? "qkv" : bias ? "all" : "none",
    mlpBias: fields.flag("mlp_bias", false),
    initializerRange: fields.number("initializer_range", 0.02),
  };
}

/** Reads a model folder's config.json. Gives the parsed file too, since whoever saves the model writes it again. */
export async function readConfig(folder: string): Promise<{ config: ModelConfig; json: Json }> {
  const path = `${folder}/config.json`;
  const json = await readJsonOf(path, "the model's configuration");
  return { config: parseConfig(json, path), json };
}
