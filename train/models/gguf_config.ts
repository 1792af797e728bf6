// deno-lint-ignore-file camelcase -- the names are those of config.json
/**
 * What a GGUF file's metadata say of a model, as the content of a config.json.
 *
 * @module
 */
import type { GgufFile } from "../files/gguf.ts";
import { GgufFields } from "../files/gguf_fields.ts";
import type { Json } from "../files/tokenizer.ts";

/** What transformers calls the architectures of GGUF, and what differs in their tensors. */
export interface GgufArchitecture {
  /** config.json's `model_type`. */
  readonly modelType: string;
  /** config.json's `architectures`. */
  readonly className: string;
  /**
   * Whether the rows of q and k are in the order in which llama.cpp rotates them: the two halves of Hugging Face's heads
   * take turns.
   */
  readonly permuted: boolean;
}

const ARCHITECTURES: ReadonlyMap<string, GgufArchitecture> = new Map([
  ["llama", { modelType: "llama", className: "LlamaForCausalLM", permuted: true }],
  ["qwen2", { modelType: "qwen2", className: "Qwen2ForCausalLM", permuted: false }],
  ["qwen3", { modelType: "qwen3", className: "Qwen3ForCausalLM", permuted: false }],
]);

/** The architecture of a file. Throws a TypeError if nibble does not know it, or the file holds only a part of a model. */
export function architectureOf(file: GgufFile): GgufArchitecture {
  const fields = new GgufFields(file);
  const key = "general.architecture";
  const found = ARCHITECTURES.get(fields.text(key) ?? "");
  if (!found) throw fields.fault(key, `one of ${[...ARCHITECTURES.keys()].join(", ")}`);
  const type = fields.text("general.type") ?? "model";
  if (type !== "model") throw fields.fault("general.type", '"model"');
  if (fields.count("split.count", 1) > 1) {
    throw fields.fault(
      "split.count",
      "1: join the parts with llama.cpp's llama-gguf-split --merge",
    );
  }
  const experts = `${fields.text(key)}.expert_count`;
  if (fields.has(experts)) throw fields.fault(experts, "a model without experts");
  return found;
}

/** Llama 3's constants: its GGUF files have only the table that follows from them and from the factor. */
const [LOW_FREQUENCY, HIGH_FREQUENCY, ORIGINAL_LENGTH] = [1, 4, 8192];

/** By how much Llama 3 divides each frequency of RoPE. */
function llama3Factors(factor: number, theta: number, headSize: number): Float64Array {
  return Float64Array.from({ length: headSize / 2 }, (_, i) => {
    const waves = ORIGINAL_LENGTH / (2 * Math.PI * theta ** (2 * i / headSize));
    const smooth = (waves - LOW_FREQUENCY) / (HIGH_FREQUENCY - LOW_FREQUENCY);
    return 1 / ((1 - Math.min(1, Math.max(0, smooth))) / factor + Math.min(1, Math.max(0, smooth)));
  });
}

async function llama3Scaling(file: GgufFile, theta: number, headSize: number): Promise<Json> {
  const table = await file.readFloats("rope_freqs.weight");
  const factor = table.reduce((a, b) => Math.max(a, b), 0);
  const wanted = llama3Factors(factor, theta, headSize);
  if (
    table.length !== wanted.length || table.some((x, i) => !(Math.abs(x / wanted[i] - 1) < 1e-4))
  ) {
    throw new TypeError(
      `Cannot use "${file.path}": its "rope_freqs.weight" is not Llama 3's table for a factor of ${factor}, wanted that or none`,
    );
  }
  return {
    rope_type: "llama3",
    factor,
    low_freq_factor: LOW_FREQUENCY,
    high_freq_factor: HIGH_FREQUENCY,
    original_max_position_embeddings: ORIGINAL_LENGTH,
  };
}

/** config.json's `rope_scaling`, or null. */
async function ropeScaling(
  file: GgufFile,
  fields: GgufFields,
  key: (name: string) => string,
  theta: number,
  headSize: number,
): Promise<Json | null> {
  if (file.entries.has("rope_freqs.weight")) return await llama3Scaling(file, theta, headSize);
  const type = fields.text(key("rope.scaling.type")) ?? "none";
  if (type === "none") return null;
  if (type !== "linear" && type !== "yarn") {
    throw fields.fault(key("rope.scaling.type"), '"none", "linear" or "yarn"');
  }
  const factor = fields.number(key("rope.scaling.factor"));
  if (type === "linear") return { rope_type: "linear", factor };
  const original = fields.count(key("rope.scaling.original_context_length"));
  return { rope_type: "yarn", factor, original_max_position_embeddings: original };
}

/** Whether any block has this tensor. */
function some(file: GgufFile, name: string): boolean {
  return file.entries.has(`blk.0.${name}`);
}

/** The config.json that transformers would have for the model. */
export async function ggufConfig(file: GgufFile, architecture: GgufArchitecture): Promise<Json> {
  const fields = new GgufFields(file);
  const key = (name: string) => `${fields.text("general.architecture")}.${name}`;
  const embedding = file.entries.get("token_embd.weight");
  if (embedding?.shape.length !== 2) {
    throw new RangeError(
      `Cannot use "${file.path}": it has no matrix "token_embd.weight", which every model calls for`,
    );
  }
  const heads = fields.count(key("attention.head_count"));
  const width = fields.count(key("embedding_length"));
  const headSize = fields.count(key("attention.key_length"), width / heads);
  // Rows are put in order head by head, in halves, before anyone else looks at the sizes.
  if (headSize % 2 !== 0) throw fields.fault(key("attention.key_length"), "an even number");
  for (const name of ["attention.value_length", "rope.dimension_count"]) {
    if (fields.count(key(name), headSize) === headSize) continue;
    throw fields.fault(key(name), `${headSize}, as the keys have`);
  }
  const layers = fields.count(key("block_count"));
  // Every block has tensors; whoever lists what a model should have need not fear a number from a damaged file.
  if (layers > file.entries.size) {
    throw fields.fault(key("block_count"), `at most the ${file.entries.size} tensors of the file`);
  }
  const theta = fields.number(key("rope.freq_base"), 10_000);
  const tokens = embedding.shape[0];
  const json: Json = {
    architectures: [architecture.className],
    model_type: architecture.modelType,
    vocab_size: tokens,
    hidden_size: width,
    intermediate_size: fields.count(key("feed_forward_length")),
    num_hidden_layers: layers,
    num_attention_heads: heads,
    num_key_value_heads: fields.count(key("attention.head_count_kv"), heads),
    head_dim: headSize,
    hidden_act: "silu",
    rms_norm_eps: fields.number(key("attention.layer_norm_rms_epsilon")),
    rope_theta: theta,
    rope_scaling: await ropeScaling(file, fields, key, theta, headSize),
    max_position_embeddings: fields.count(key("context_length")),
    tie_word_embeddings: !file.entries.has("output.weight"),
    bos_token_id: fields.token("tokenizer.ggml.bos_token_id", tokens),
    eos_token_id: fields.token("tokenizer.ggml.eos_token_id", tokens),
    pad_token_id: fields.token("tokenizer.ggml.padding_token_id", tokens),
  };
  if (architecture.modelType === "llama") {
    json.attention_bias = some(file, "attn_output.bias");
    json.mlp_bias = some(file, "ffn_down.bias");
  }
  return json;
}
