/**
 * GPT-2: LayerNorm, learned positions, GELU, and linear weights that lie the other way round. Radford et al., "Language models
 * are unsupervised multitask learners" (2019). Dropout is left out, in training too: an adapter has its own.
 *
 * @module
 */
import { kept, recomputable } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { gelu } from "../../kernels/pointwise/gelu.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import { slice } from "../../kernels/pointwise/slice.ts";
import type { ConfigFields, ModelConfig } from "../files/config.ts";
import type { Json } from "../files/tokenizer.ts";
import { Embedding } from "../nn/embedding.ts";
import { Linear, plainWeight } from "../nn/linear.ts";
import { LinearGroup } from "../nn/linear_group.ts";
import { Module, type Named } from "../nn/module.ts";
import { LayerNorm } from "../nn/norm.ts";
import { type Architecture, Parts, type Weights, type WeightSpec } from "./architecture.ts";
import { attend } from "./attend.ts";
import {
  type HeadOperands,
  type KeyValueCache,
  LanguageModel,
  type Scaling,
} from "./language_model.ts";
import { type Checkpointing, runBlocks } from "./run_blocks.ts";

/** Reads a config.json. What it does not say is as in transformers: the smallest GPT-2. */
function configOf(fields: ConfigFields, modelType: string): ModelConfig {
  // transformers' two names for the same function.
  fields.only("activation_function", "gelu_new", "gelu_pytorch_tanh");
  fields.only("scale_attn_weights", true);
  fields.only("scale_attn_by_inverse_layer_idx", false);
  fields.only("add_cross_attention", false);
  const hiddenSize = fields.count("n_embd", 768);
  const heads = fields.count("n_head", 12);
  return {
    modelType,
    vocabSize: fields.count("vocab_size", 50257),
    hiddenSize,
    intermediateSize: fields.count("n_inner", 4 * hiddenSize),
    layers: fields.layers("n_layer", 12),
    heads,
    kvHeads: heads,
    headSize: fields.headSize("head_dim", hiddenSize / heads),
    normEpsilon: fields.number("layer_norm_epsilon", 1e-5),
    contextLength: fields.count("n_positions", 1024),
    tiedEmbeddings: fields.flag("tie_word_embeddings", true),
    initializerRange: fields.number("initializer_range", 0.02),
  };
}

/** Every weight of a model with this configuration, by Hugging Face's names. */
function weightsOf(config: ModelConfig): Map<string, WeightSpec> {
  const { hiddenSize, intermediateSize, vocabSize, contextLength, layers } = config;
  const specs = new Map<string, WeightSpec>();
  const norm = (name: string) => {
    specs.set(`${name}.weight`, { shape: [hiddenSize], role: "norm" });
    specs.set(`${name}.bias`, { shape: [hiddenSize], role: "bias" });
  };
  const linear = (name: string, columns: number, rows: number, spread = 1) => {
    const shape = [columns, rows];
    specs.set(`${name}.weight`, { shape, role: "linear", transposed: true, spread });
    specs.set(`${name}.bias`, { shape: [rows], role: "bias" });
  };
  // What is added to the residual stream begins smaller, so that the stream does not grow with the depth.
  const small = 1 / Math.sqrt(2 * layers);
  specs.set("transformer.wte.weight", { shape: [vocabSize, hiddenSize], role: "embedding" });
  specs.set("transformer.wpe.weight", { shape: [contextLength, hiddenSize], role: "embedding" });
  for (let i = 0; i < layers; i++) {
    const block = `transformer.h.${i}`;
    norm(`${block}.ln_1`);
    linear(`${block}.attn.c_attn`, hiddenSize, 3 * hiddenSize);
    linear(`${block}.attn.c_proj`, hiddenSize, hiddenSize, small);
    norm(`${block}.ln_2`);
    linear(`${block}.mlp.c_fc`, hiddenSize, intermediateSize);
    linear(`${block}.mlp.c_proj`, intermediateSize, hiddenSize, small);
  }
  norm("transformer.ln_f");
  if (!config.tiedEmbeddings) {
    specs.set("lm_head.weight", { shape: [vocabSize, hiddenSize], role: "head" });
  }
  return specs;
}

/** GPT-2 and DistilGPT2. */
export const GPT2: Architecture = {
  modelTypes: ["gpt2"],
  plan(fields, modelType) {
    const config = configOf(fields, modelType);
    return {
      config,
      weights: weightsOf(config),
      prefix: "transformer.",
      harmless: /\.attn\.(masked_)?bias$/,
      create: (device, json, weights) => new Gpt2(device, config, json, weights),
    };
  },
};

/** A normalization by its path. */
function layerNormAt(parts: Parts, path: string, { normEpsilon }: ModelConfig): LayerNorm {
  return new LayerNorm(
    parts.tensor(`${path}.weight`),
    parts.tensor(`${path}.bias`),
    normEpsilon,
  );
}

/** Attention whose queries, keys and values come out of one layer. */
class Gpt2Attention extends LinearGroup<"c_attn" | "c_proj"> {
  readonly #config: ModelConfig;

  constructor(parts: Parts, path: string, config: ModelConfig) {
    super(["c_attn", "c_proj"], (name) => parts.linear(`${path}.${name}`, true));
    this.#config = config;
  }

  forward(
    x: Tensor,
    residual: Tensor,
    positions: Tensor,
    past?: Tensor,
    cache?: KeyValueCache["blocks"][number],
  ): Tensor {
    const { heads, headSize, hiddenSize } = this.#config;
    const { c_attn, c_proj } = this.layers;
    const all = c_attn.forward(x);
    const part = (i: number) =>
      reshape(
        slice(all, { start: i * hiddenSize, length: hiddenSize }),
        [...x.shape.slice(0, 2), heads, headSize],
      );
    const mixed = attend(part(0), part(1), part(2), positions, { past, cache });
    return c_proj.forward(reshape(mixed, x.shape), residual);
  }
}

/** One block: attention and a feed-forward layer, each behind a normalization and beside a residual. */
class Gpt2Block extends Module {
  readonly #attentionNorm: LayerNorm;
  readonly #attention: Gpt2Attention;
  readonly #mlpNorm: LayerNorm;
  readonly #mlp: LinearGroup<"c_fc" | "c_proj">;

  constructor(parts: Parts, path: string, config: ModelConfig) {
    super();
    this.#attentionNorm = layerNormAt(parts, `${path}.ln_1`, config);
    this.#attention = new Gpt2Attention(parts, `${path}.attn`, config);
    this.#mlpNorm = layerNormAt(parts, `${path}.ln_2`, config);
    this.#mlp = new LinearGroup(
      ["c_fc", "c_proj"],
      (name) => parts.linear(`${path}.mlp.${name}`, true),
    );
  }

  override *children(): Generator<Named<Module>> {
    yield ["ln_1", this.#attentionNorm];
    yield ["attn", this.#attention];
    yield ["ln_2", this.#mlpNorm];
    yield ["mlp", this.#mlp];
  }

  forward(
    x: Tensor,
    positions: Tensor,
    past?: Tensor,
    cache?: KeyValueCache["blocks"][number],
  ): Tensor {
    const input = this.#attentionNorm.forward(x);
    const attended = this.#attention.forward(input, x, positions, past, cache);
    const { c_fc, c_proj } = this.#mlp.layers;
    const inner = c_fc.forward(this.#mlpNorm.forward(attended));
    return c_proj.forward(recomputable(() => gelu(kept(inner))), attended);
  }
}

/** The part of the model that is called `transformer`: embeddings, blocks, final normalization. */
class Gpt2Body extends Module {
  readonly tokens: Embedding;
  readonly positions: Embedding;
  readonly blocks: readonly Gpt2Block[];
  readonly norm: LayerNorm;

  constructor(parts: Parts, config: ModelConfig) {
    super();
    this.tokens = new Embedding(parts.tensor("transformer.wte.weight"));
    this.positions = new Embedding(parts.tensor("transformer.wpe.weight"));
    this.blocks = Array.from(
      { length: config.layers },
      (_, i) => new Gpt2Block(parts, `transformer.h.${i}`, config),
    );
    this.norm = layerNormAt(parts, "transformer.ln_f", config);
  }

  override *children(): Generator<Named<Module>> {
    yield ["wte", this.tokens];
    yield ["wpe", this.positions];
    for (const [i, block] of this.blocks.entries()) yield [`h.${i}`, block];
    yield ["ln_f", this.norm];
  }
}

/** A model of GPT-2's architecture. */
export class Gpt2 extends LanguageModel {
  /** Files have its linear weights as [inFeatures, outFeatures]. */
  override readonly storesTransposed = true;
  readonly #body: Gpt2Body;
  readonly #head: Linear | null;

  /** Use `loadModel` or `randomModel`. */
  constructor(device: Device, config: ModelConfig, configJson: Json, weights: Weights) {
    super(device, config, configJson);
    const parts = new Parts(weights);
    this.#body = new Gpt2Body(parts, config);
    this.#head = config.tiedEmbeddings ? null : new Linear(parts.tensor("lm_head.weight"));
  }

  /** `transformer`, and `lm_head` where the output layer is not the embedding itself. */
  override *children(): Generator<Named<Module>> {
    yield ["transformer", this.#body];
    if (this.#head) yield ["lm_head", this.#head];
  }

  /** The embeddings of tokens and positions, and all blocks. */
  protected override hidden(
    ids: Tensor,
    positions: Tensor,
    cache?: KeyValueCache,
    checkpointing?: Checkpointing,
  ): Tensor {
    const body = this.#body;
    return runBlocks(
      add(body.tokens.forward(ids), body.positions.forward(positions)),
      body.blocks,
      (block, x, i) => block.forward(x, positions, cache?.past, cache?.blocks[i]),
      checkpointing,
    );
  }

  /** The normalizations before attention and the feed-forward layer; GELU lets no factor through. */
  override *scalings(): Generator<Scaling> {
    for (let i = 0; i < this.config.layers; i++) {
      const block = `transformer.h.${i}`;
      yield { source: `${block}.ln_1`, readers: [`${block}.attn.c_attn`] };
      yield { source: `${block}.ln_2`, readers: [`${block}.mlp.c_fc`] };
    }
  }

  /** The final normalization and the output layer. */
  protected override head(hidden: Tensor): Tensor {
    const x = this.#body.norm.forward(hidden);
    return this.#head
      ? this.#head.forward(x)
      : matmul(x, this.#body.tokens.weight, { transposeB: true });
  }

  /** The normalized states and the output weight, tied or not. */
  protected override headOperands(hidden: Tensor): HeadOperands | null {
    const weight = this.#head ? plainWeight(this.#head) : this.#body.tokens.weight;
    return weight && { hidden: this.#body.norm.forward(hidden), weight };
  }
}
