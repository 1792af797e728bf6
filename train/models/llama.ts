/**
 * Llama and its relatives: RMSNorm, rotary positions, grouped-query attention, SwiGLU. SmolLM2 and Mistral are the same; Qwen2
 * has biases on q, k and v. Touvron et al., "LLaMA" (arXiv 2302.13971).
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Tensor, tensor } from "../../core/tensor.ts";
import { attention } from "../../kernels/attention/attention.ts";
import { cacheAppend } from "../../kernels/attention/cache_append.ts";
import { rope } from "../../kernels/attention/rope.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import { siluGate } from "../../kernels/pointwise/silu_gate.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { ModelConfig } from "../files/config.ts";
import type { Json } from "../files/tokenizer.ts";
import { Embedding } from "../nn/embedding.ts";
import { Linear, type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { Module, type Named } from "../nn/module.ts";
import { RmsNorm } from "../nn/norm.ts";
import { type KeyValueCache, LanguageModel } from "./language_model.ts";
import { ropeTable } from "./rope_table.ts";

/** A weight that a model wants. */
export interface WeightSpec {
  /** Its shape. */
  readonly shape: readonly number[];
  /** What it is; only linear weights are quantized. The output layer stays in 32 bits, as bitsandbytes and PEFT leave it. */
  readonly role: "linear" | "bias" | "norm" | "embedding" | "head";
}

/** A model's weights by Hugging Face's names; those of linear layers may be quantized. */
export type Weights = ReadonlyMap<string, Tensor | QuantizedTensor>;

/** Every weight of a model with this configuration, by Hugging Face's names. */
export function llamaWeights(config: ModelConfig): Map<string, WeightSpec> {
  const { hiddenSize, intermediateSize, heads, kvHeads, headSize, vocabSize } = config;
  const specs = new Map<string, WeightSpec>();
  const norm = (name: string) => specs.set(`${name}.weight`, { shape: [hiddenSize], role: "norm" });
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
    linear(`${block}.mlp.gate_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${block}.mlp.up_proj`, intermediateSize, hiddenSize, mlpBias);
    linear(`${block}.mlp.down_proj`, hiddenSize, intermediateSize, mlpBias);
    norm(`${block}.input_layernorm`);
    norm(`${block}.post_attention_layernorm`);
  }
  norm("model.norm");
  if (!config.tiedEmbeddings) {
    specs.set("lm_head.weight", { shape: [vocabSize, hiddenSize], role: "head" });
  }
  return specs;
}

/** Hands out a model's weights. */
class Parts {
  readonly #weights: Weights;
  readonly #config: ModelConfig;

  constructor(weights: Weights, config: ModelConfig) {
    this.#weights = weights;
    this.#config = config;
  }

  #find(name: string): Tensor | QuantizedTensor {
    const found = this.#weights.get(name);
    if (found) return found;
    throw new TypeError(`Cannot make the model: it has no weight "${name}"`);
  }

  tensor(name: string): Tensor {
    const found = this.#find(name);
    if (found instanceof Tensor) return found;
    throw new TypeError(`Cannot make the model: "${name}" may not be quantized`);
  }

  norm(name: string): RmsNorm {
    return new RmsNorm(this.tensor(`${name}.weight`), this.#config.normEpsilon);
  }

  linear(name: string): LinearLayer {
    const weight = this.#find(`${name}.weight`);
    const bias = this.#weights.has(`${name}.bias`) ? this.tensor(`${name}.bias`) : null;
    return weight instanceof Tensor ? new Linear(weight, bias) : new QuantizedLinear(weight, bias);
  }
}

/** A group of linear layers by name, as `self_attn` and `mlp` are. */
class LinearGroup<Name extends string> extends Module {
  readonly layers: Record<Name, LinearLayer>;

  constructor(names: readonly Name[], make: (name: Name) => LinearLayer) {
    super();
    const entries = names.map((name) => [name, make(name)] as const);
    this.layers = Object.fromEntries(entries) as Record<Name, LinearLayer>;
  }

  override *children(): Generator<Named<Module>> {
    for (const name in this.layers) yield [name, this.layers[name]];
  }
}

/** One block: attention and a feed-forward layer, each behind a normalization and beside a residual. */
class LlamaBlock extends Module {
  readonly attentionNorm: RmsNorm;
  readonly attention: LinearGroup<"q_proj" | "k_proj" | "v_proj" | "o_proj">;
  readonly mlpNorm: RmsNorm;
  readonly mlp: LinearGroup<"gate_proj" | "up_proj" | "down_proj">;
  readonly #config: ModelConfig;
  readonly #angles: Tensor;

  constructor(config: ModelConfig, parts: Parts, path: string, angles: Tensor) {
    super();
    this.#config = config;
    this.#angles = angles;
    this.attentionNorm = parts.norm(`${path}.input_layernorm`);
    this.attention = new LinearGroup(
      ["q_proj", "k_proj", "v_proj", "o_proj"],
      (name) => parts.linear(`${path}.self_attn.${name}`),
    );
    this.mlpNorm = parts.norm(`${path}.post_attention_layernorm`);
    this.mlp = new LinearGroup(
      ["gate_proj", "up_proj", "down_proj"],
      (name) => parts.linear(`${path}.mlp.${name}`),
    );
  }

  override *children(): Generator<Named<Module>> {
    yield ["self_attn", this.attention];
    yield ["mlp", this.mlp];
    yield ["input_layernorm", this.attentionNorm];
    yield ["post_attention_layernorm", this.mlpNorm];
  }

  forward(
    x: Tensor,
    positions: Tensor,
    past?: Tensor,
    cache?: KeyValueCache["blocks"][number],
  ): Tensor {
    const [batch, length] = x.shape;
    const { heads, kvHeads, headSize } = this.#config;
    const { q_proj, k_proj, v_proj, o_proj } = this.attention.layers;
    const input = this.attentionNorm.forward(x);
    const split = (t: Tensor, count: number) => reshape(t, [batch, length, count, headSize]);
    const q = rope(split(q_proj.forward(input), heads), positions, this.#angles);
    let k = rope(split(k_proj.forward(input), kvHeads), positions, this.#angles);
    let v = split(v_proj.forward(input), kvHeads);
    if (cache && past) {
      cacheAppend(cache.keys, k, past);
      cacheAppend(cache.values, v, past);
      [k, v] = [cache.keys, cache.values];
    }
    const mixed = attention(q, k, v, positions, { past });
    const attended = o_proj.forward(reshape(mixed, [batch, length, heads * headSize]), x);
    const { gate_proj, up_proj, down_proj } = this.mlp.layers;
    const middle = this.mlpNorm.forward(attended);
    return down_proj.forward(
      siluGate(gate_proj.forward(middle), up_proj.forward(middle)),
      attended,
    );
  }
}

/** The part of the model that is called `model`: embedding, blocks, final normalization. */
class LlamaBody extends Module {
  readonly embedding: Embedding;
  readonly blocks: readonly LlamaBlock[];
  readonly norm: RmsNorm;

  constructor(config: ModelConfig, parts: Parts, angles: Tensor) {
    super();
    this.embedding = new Embedding(parts.tensor("model.embed_tokens.weight"));
    this.blocks = Array.from(
      { length: config.layers },
      (_, i) => new LlamaBlock(config, parts, `model.layers.${i}`, angles),
    );
    this.norm = parts.norm("model.norm");
  }

  override *children(): Generator<Named<Module>> {
    yield ["embed_tokens", this.embedding];
    for (const [i, block] of this.blocks.entries()) yield [`layers.${i}`, block];
    yield ["norm", this.norm];
  }
}

/** A model of Llama's architecture. */
export class Llama extends LanguageModel {
  readonly #body: LlamaBody;
  readonly #head: Linear | null;

  /** Use `loadModel` or `randomModel`. */
  constructor(device: Device, config: ModelConfig, configJson: Json, weights: Weights) {
    super(device, config, configJson);
    const { headSize, ropeTheta: theta, contextLength: length } = config;
    const table = ropeTable({ headSize, theta, length });
    const angles = device.keep(tensor(device, table, [length, headSize]));
    const parts = new Parts(weights, config);
    this.#body = new LlamaBody(config, parts, angles);
    this.#head = config.tiedEmbeddings ? null : new Linear(parts.tensor("lm_head.weight"));
  }

  /** `model`, and `lm_head` where the output layer is not the embedding itself. */
  override *children(): Generator<Named<Module>> {
    yield ["model", this.#body];
    if (this.#head) yield ["lm_head", this.#head];
  }

  /** The embedding and all blocks. */
  protected override hidden(ids: Tensor, positions: Tensor, cache?: KeyValueCache): Tensor {
    let x = this.#body.embedding.forward(ids);
    for (const [i, block] of this.#body.blocks.entries()) {
      x = block.forward(x, positions, cache?.past, cache?.blocks[i]);
    }
    return x;
  }

  /** Takes rows out of hidden states. */
  protected override take(hidden: Tensor, places: Tensor): Tensor {
    const { hiddenSize } = this.config;
    return embedding(reshape(hidden, [hidden.size / hiddenSize, hiddenSize]), places);
  }

  /** The final normalization and the output layer. */
  protected override head(hidden: Tensor): Tensor {
    const x = this.#body.norm.forward(hidden);
    return this.#head
      ? this.#head.forward(x)
      : matmul(x, this.#body.embedding.weight, { transposeB: true });
  }

  /** Puts another linear layer in the place of the one at `path`, such as `model.layers.0.mlp.up_proj`. */
  override replaceLinear(path: string, layer: LinearLayer): void {
    const [, index, group, name] = /^model\.layers\.(\d+)\.(self_attn|mlp)\.(\w+)$/.exec(path) ??
      [];
    const block = this.#body.blocks[Number(index)];
    const layers: Record<string, LinearLayer> | undefined =
      (group === "mlp" ? block?.mlp : block?.attention)?.layers;
    if (!layers || !Object.hasOwn(layers, name)) {
      throw new RangeError(`Cannot replace "${path}": the model has no linear layer of that name`);
    }
    layers[name] = layer;
  }
}
