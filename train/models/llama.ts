/**
 * Llama and its relatives: RMSNorm, rotary positions, grouped-query attention, SwiGLU. SmolLM2 and Mistral are the same; Qwen2
 * has biases on q, k and v; Qwen3 normalizes each head of q and k. Touvron et al., "LLaMA" (arXiv 2302.13971).
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import type { ConfigFields, ModelConfig } from "../files/config.ts";
import { readRope, type RopeConfig } from "../files/rope_config.ts";
import type { Json } from "../files/tokenizer.ts";
import { Embedding } from "../nn/embedding.ts";
import { Linear, plainWeight } from "../nn/linear.ts";
import { LinearGroup } from "../nn/linear_group.ts";
import { Module, type Named } from "../nn/module.ts";
import { normalizedGate, normalizedLayers, normalizedProduct } from "../nn/normalized_layers.ts";
import { RmsNorm } from "../nn/norm.ts";
import { type Architecture, Parts, type Weights, type WeightSpec } from "./architecture.ts";
import { attend } from "./attend.ts";
import {
  type HeadOperands,
  type KeyValueCache,
  LanguageModel,
  type Scaling,
} from "./language_model.ts";
import { ropeTable } from "./rope_table.ts";
import { type Checkpointing, runBlocks } from "./run_blocks.ts";

/** The sizes of a model of Llama's kind, and how it counts positions. */
export interface LlamaConfig extends ModelConfig {
  /** RoPE's base and scaling. */
  readonly rope: RopeConfig;
  /** Whether q, k and v (and with "all" also o) have biases. */
  readonly attentionBias: "none" | "qkv" | "all";
  /** Whether the feed-forward layers have biases. */
  readonly mlpBias: boolean;
  /** Whether each head of q and k is normalized before it is rotated. */
  readonly headNorms: boolean;
}

/** What transformers takes where config.json does not say. */
const DEFAULTS: Readonly<Record<string, { context: number; kvHeads?: number; headSize?: number }>> =
  {
    llama: { context: 2048 },
    mistral: { context: 131_072, kvHeads: 8 },
    qwen2: { context: 32_768, kvHeads: 32 },
    qwen3: { context: 32_768, kvHeads: 32, headSize: 128 },
  };

/**
 * The context. A layer with a sliding window sees only so many tokens back; up to that length it sees all, so a model with one is
 * what it should be on texts no longer than its window, and no others are let in.
 */
function contextOf(fields: ConfigFields, modelType: string): number {
  const positions = fields.count("max_position_embeddings", DEFAULTS[modelType].context);
  const { sliding_window: window, layer_types: types } = fields.json;
  if (modelType === "llama") return positions;
  const slides = modelType === "mistral"
    ? window !== null
    : fields.flag("use_sliding_window", false) &&
      !(Array.isArray(types) && types.every((type) => type === "full_attention"));
  return slides ? Math.min(positions, fields.count("sliding_window", 4096)) : positions;
}

/** Reads a config.json. */
function configOf(fields: ConfigFields, modelType: string): LlamaConfig {
  const defaults = DEFAULTS[modelType];
  fields.only("hidden_act", "silu");
  const hiddenSize = fields.count("hidden_size");
  const heads = fields.count("num_attention_heads");
  // Llama's default, and that of a null, is as many as heads; where transformers has a number, its absence means that number.
  const isNull = fields.json.num_key_value_heads === null;
  const kvHeads = fields.count("num_key_value_heads", isNull ? heads : defaults.kvHeads ?? heads);
  if (heads % kvHeads !== 0) {
    throw fields.fault("num_key_value_heads", `a divisor of the ${heads} attention heads`);
  }
  const bias = fields.flag("attention_bias", false);
  return {
    modelType,
    vocabSize: fields.count("vocab_size"),
    hiddenSize,
    intermediateSize: fields.count("intermediate_size"),
    layers: fields.layers("num_hidden_layers"),
    heads,
    kvHeads,
    headSize: fields.headSize("head_dim", defaults.headSize ?? hiddenSize / heads),
    normEpsilon: fields.number("rms_norm_eps", 1e-6),
    rope: readRope(fields, fields.count("max_position_embeddings", defaults.context)),
    contextLength: contextOf(fields, modelType),
    tiedEmbeddings: fields.flag("tie_word_embeddings", false),
    attentionBias: modelType === "qwen2" ? "qkv" : bias ? "all" : "none",
    mlpBias: fields.flag("mlp_bias", false),
    headNorms: modelType === "qwen3",
    initializerRange: fields.number("initializer_range", 0.02),
  };
}

/** Every weight of a model with this configuration, by Hugging Face's names. */
function weightsOf(config: LlamaConfig): Map<string, WeightSpec> {
  const { hiddenSize, intermediateSize, heads, kvHeads, headSize, vocabSize } = config;
  const specs = new Map<string, WeightSpec>();
  const norm = (name: string, size: number) =>
    specs.set(`${name}.weight`, { shape: [size], role: "norm" });
  const linear = (name: string, rows: number, columns: number, bias: boolean) => {
    specs.set(`${name}.weight`, { shape: [rows, columns], role: "linear" });
    if (bias) specs.set(`${name}.bias`, { shape: [rows], role: "bias" });
  };
  const { attentionBias, mlpBias } = config;
  specs.set("model.embed_tokens.weight", { shape: [vocabSize, hiddenSize], role: "embedding" });
  for (let i = 0; i < config.layers; i++) {
    const block = `model.layers.${i}`;
    const qkvBias = attentionBias !== "none";
    linear(`${block}.self_attn.q_proj`, heads * headSize, hiddenSize, qkvBias);
    linear(`${block}.self_attn.k_proj`, kvHeads * headSize, hiddenSize, qkvBias);
    linear(`${block}.self_attn.v_proj`, kvHeads * headSize, hiddenSize, qkvBias);
    linear(`${block}.self_attn.o_proj`, hiddenSize, heads * headSize, attentionBias === "all");
    if (config.headNorms) {
      norm(`${block}.self_attn.q_norm`, headSize);
      norm(`${block}.self_attn.k_norm`, headSize);
    }
    linear(`${block}.mlp.gate_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${block}.mlp.up_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${block}.mlp.down_proj`, hiddenSize, intermediateSize, mlpBias);
    norm(`${block}.input_layernorm`, hiddenSize);
    norm(`${block}.post_attention_layernorm`, hiddenSize);
  }
  norm("model.norm", hiddenSize);
  if (!config.tiedEmbeddings) {
    specs.set("lm_head.weight", { shape: [vocabSize, hiddenSize], role: "head" });
  }
  return specs;
}

/** Llama, Mistral, Qwen2 and Qwen3. */
export const LLAMA: Architecture = {
  modelTypes: ["llama", "mistral", "qwen2", "qwen3"],
  plan(fields, modelType) {
    const config = configOf(fields, modelType);
    return {
      config,
      weights: weightsOf(config),
      prefix: "model.",
      harmless: /\.rotary_emb\.inv_freq$/,
      create: (device, json, weights) => new Llama(device, config, json, weights),
    };
  },
};

/** What the blocks of a model share. */
interface Shared {
  readonly config: LlamaConfig;
  readonly angles: Tensor;
}

/** A normalization by its path. */
function rmsNormAt(parts: Parts, path: string, { config }: Shared): RmsNorm {
  return new RmsNorm(parts.tensor(`${path}.weight`), config.normEpsilon);
}

/** Attention: rotated queries and keys in groups. */
class LlamaAttention extends LinearGroup<"q_proj" | "k_proj" | "v_proj" | "o_proj"> {
  readonly #shared: Shared;
  readonly #norms: { readonly q_norm: RmsNorm; readonly k_norm: RmsNorm } | null;

  constructor(parts: Parts, path: string, shared: Shared) {
    super(["q_proj", "k_proj", "v_proj", "o_proj"], (name) => parts.linear(`${path}.${name}`));
    this.#shared = shared;
    this.#norms = shared.config.headNorms
      ? {
        q_norm: rmsNormAt(parts, `${path}.q_norm`, shared),
        k_norm: rmsNormAt(parts, `${path}.k_norm`, shared),
      }
      : null;
  }

  override *children(): Generator<Named<Module>> {
    yield* super.children();
    yield* Object.entries(this.#norms ?? {});
  }

  /** Attention to `norm(x)`, and x added. */
  forward(
    x: Tensor,
    norm: RmsNorm,
    positions: Tensor,
    past?: Tensor,
    cache?: KeyValueCache["blocks"][number],
  ): Tensor {
    const [batch, length] = x.shape;
    const { config: { heads, kvHeads, headSize }, angles } = this.#shared;
    const { q_proj, k_proj, v_proj, o_proj } = this.layers;
    const split = (t: Tensor, count: number) => reshape(t, [batch, length, count, headSize]);
    const [q, k, v] = normalizedLayers(x, norm, [q_proj, k_proj, v_proj]);
    const normalized = (t: Tensor, own?: RmsNorm) => own?.forward(t) ?? t;
    const mixed = attend(
      normalized(split(q, heads), this.#norms?.q_norm),
      normalized(split(k, kvHeads), this.#norms?.k_norm),
      split(v, kvHeads),
      positions,
      { angles, past, cache },
    );
    return o_proj.forward(reshape(mixed, [batch, length, heads * headSize]), x);
  }
}

/** One block: attention and a feed-forward layer, each behind a normalization and beside a residual. */
class LlamaBlock extends Module {
  readonly #attentionNorm: RmsNorm;
  readonly #attention: LlamaAttention;
  readonly #mlpNorm: RmsNorm;
  readonly #mlp: LinearGroup<"gate_proj" | "up_proj" | "down_proj">;

  constructor(parts: Parts, path: string, shared: Shared) {
    super();
    this.#attentionNorm = rmsNormAt(parts, `${path}.input_layernorm`, shared);
    this.#attention = new LlamaAttention(parts, `${path}.self_attn`, shared);
    this.#mlpNorm = rmsNormAt(parts, `${path}.post_attention_layernorm`, shared);
    this.#mlp = new LinearGroup(
      ["gate_proj", "up_proj", "down_proj"],
      (name) => parts.linear(`${path}.mlp.${name}`),
    );
  }

  override *children(): Generator<Named<Module>> {
    yield ["self_attn", this.#attention];
    yield ["mlp", this.#mlp];
    yield ["input_layernorm", this.#attentionNorm];
    yield ["post_attention_layernorm", this.#mlpNorm];
  }

  forward(
    x: Tensor,
    positions: Tensor,
    past?: Tensor,
    cache?: KeyValueCache["blocks"][number],
  ): Tensor {
    const attended = this.#attention.forward(x, this.#attentionNorm, positions, past, cache);
    const { gate_proj, up_proj, down_proj } = this.#mlp.layers;
    return down_proj.forward(normalizedGate(attended, this.#mlpNorm, gate_proj, up_proj), attended);
  }
}

/** The part of the model that is called `model`: embedding, blocks, final normalization. */
class LlamaBody extends Module {
  readonly embedding: Embedding;
  readonly blocks: readonly LlamaBlock[];
  readonly norm: RmsNorm;

  constructor(parts: Parts, shared: Shared) {
    super();
    this.embedding = new Embedding(parts.tensor("model.embed_tokens.weight"));
    this.blocks = Array.from(
      { length: shared.config.layers },
      (_, i) => new LlamaBlock(parts, `model.layers.${i}`, shared),
    );
    this.norm = rmsNormAt(parts, "model.norm", shared);
  }

  override *children(): Generator<Named<Module>> {
    yield ["embed_tokens", this.embedding];
    for (const [i, block] of this.blocks.entries()) yield [`layers.${i}`, block];
    yield ["norm", this.norm];
  }
}

/** A model of Llama's architecture. */
export class Llama extends LanguageModel {
  /** Its sizes, and how it counts positions. */
  declare readonly config: LlamaConfig;
  readonly #body: LlamaBody;
  readonly #head: Linear | null;
  readonly #angles: Tensor;

  /** Use `loadModel` or `randomModel`. */
  constructor(device: Device, config: LlamaConfig, configJson: Json, weights: Weights) {
    super(device, config, configJson);
    const { headSize, rope: { theta, scaling }, contextLength: length } = config;
    const table = ropeTable({ headSize, theta, scaling, length });
    this.#angles = device.keep(tensor(device, table, [length, headSize]));
    const parts = new Parts(weights);
    this.#body = new LlamaBody(parts, { config, angles: this.#angles });
    this.#head = config.tiedEmbeddings ? null : new Linear(parts.tensor("lm_head.weight"));
  }

  /** `model`, and `lm_head` where the output layer is not the embedding itself. */
  override *children(): Generator<Named<Module>> {
    yield ["model", this.#body];
    if (this.#head) yield ["lm_head", this.#head];
  }

  /** The embedding and all blocks. */
  protected override hidden(
    ids: Tensor,
    positions: Tensor,
    cache?: KeyValueCache,
    checkpointing?: Checkpointing,
  ): Tensor {
    return runBlocks(
      this.#body.embedding.forward(ids),
      this.#body.blocks,
      (block, x, i) => block.forward(x, positions, cache?.past, cache?.blocks[i]),
      checkpointing,
    );
  }

  /** The final normalization and the output layer. */
  protected override head(hidden: Tensor): Tensor {
    const { norm, embedding } = this.#body;
    const weight = this.#head ? plainWeight(this.#head) : embedding.weight;
    return weight
      ? normalizedProduct(hidden, norm, weight)
      : this.#head!.forward(norm.forward(hidden));
  }

  /** The normalized states and the output weight, tied or not. */
  protected override headOperands(hidden: Tensor): HeadOperands | null {
    const weight = this.#head ? plainWeight(this.#head) : this.#body.embedding.weight;
    return weight && { hidden: this.#body.norm.forward(hidden), weight };
  }

  /** Normalizations before the projections, and pairs of projections with nothing but products between them. */
  override *scalings(): Generator<Scaling> {
    const { layers, heads, kvHeads } = this.config;
    for (let i = 0; i < layers; i++) {
      const block = `model.layers.${i}`;
      const [attention, mlp] = [`${block}.self_attn`, `${block}.mlp`];
      yield {
        source: `${block}.input_layernorm`,
        readers: ["q", "k", "v"].map((name) => `${attention}.${name}_proj`),
      };
      // With grouped queries an output of v_proj is read by several channels of o_proj.
      if (heads === kvHeads) {
        yield { source: `${attention}.v_proj`, readers: [`${attention}.o_proj`] };
      }
      yield {
        source: `${block}.post_attention_layernorm`,
        readers: [`${mlp}.gate_proj`, `${mlp}.up_proj`],
      };
      yield { source: `${mlp}.up_proj`, readers: [`${mlp}.down_proj`] };
    }
  }

  /** Frees the weights, and the angles of positions. */
  override dispose(): void {
    super.dispose();
    this.#angles.dispose();
  }
}
