/**
 * What every language model can do, whatever its architecture.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { constant } from "../../core/constant.ts";
import { checkDType, checkRank, checkSameShape, showShape } from "../../core/shape.ts";
import { empty, type Tensor, viewOf, zeros } from "../../core/tensor.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { crossEntropy, type CrossEntropyOptions } from "../../kernels/loss/cross_entropy.ts";
import { linearCrossEntropy } from "../../kernels/loss/linear_cross_entropy.ts";
import { shiftLabels } from "../../kernels/loss/shift_labels.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import type { ModelConfig } from "../files/config.ts";
import type { Json, Tokenizer } from "../files/tokenizer.ts";
import type { Adapter } from "../nn/adapter.ts";
import type { InputRounding } from "../nn/input_rounding.ts";
import { LinearLayer } from "../nn/linear.ts";
import { LinearGroup } from "../nn/linear_group.ts";
import { joinPath, Module, type Named } from "../nn/module.ts";
import type { Checkpointing } from "./run_blocks.ts";

/** Keys and values of the tokens that a model has already seen. */
export interface KeyValueCache {
  /** i32 [1]: how many slots are filled. Whoever generates counts it up. */
  readonly past: Tensor;
  /** For each block its keys and values, f32 [batch, slots, kvHeads, headSize]. */
  readonly blocks: readonly { readonly keys: Tensor; readonly values: Tensor }[];
}

/** How a model is applied. */
export interface ForwardOptions {
  /** i32 [batch, length]: each token's place in its own sequence; by default 0, 1, 2, … in every row. 0 begins a sequence. */
  readonly positions?: Tensor;
  /** i32 [places]: where logits are wanted, as indices into batch · length; by default everywhere. */
  readonly places?: Tensor;
  /** The tokens before these; theirs are appended. */
  readonly cache?: KeyValueCache;
  /** Whether the backward pass shall compute blocks again instead of keeping what they compute. */
  readonly checkpointing?: Checkpointing;
}

/** How a model is applied for its loss at given targets. */
export interface LossOptions extends ForwardOptions, CrossEntropyOptions {}

/** Hidden states behind the final normalization, and the weight [vocabSize, hiddenSize] that turns them into logits. */
export interface HeadOperands {
  /** f32 [..., hiddenSize]. */
  readonly hidden: Tensor;
  /** f32 or f16 [vocabSize, hiddenSize]. */
  readonly weight: Tensor;
}

/** How many numbers a model has, and how many of them are trained. */
export interface ParameterCount {
  /** All weights, adapters included. */
  readonly total: number;
  /** Those with `requiresGrad`. */
  readonly trainable: number;
}

/** A part of a model whose every output channel can be divided by a factor, if those who read it multiply by the same. */
export interface Scaling {
  /** The path of a normalization or a linear layer. */
  readonly source: string;
  /** The paths of all linear layers that read what it gives, channel by channel. */
  readonly readers: readonly string[];
}

/** A causal language model on a device. `loadModel` makes one. */
export abstract class LanguageModel extends Module {
  /** Where it lives. */
  readonly device: Device;
  /** Its sizes. */
  readonly config: ModelConfig;
  /** The config.json that it came from, with everything that nibble does not read. */
  readonly configJson: Json;
  /** Its tokenizer, if its folder has one. */
  tokenizer: Tokenizer | null = null;
  /** What there is to say of how it was loaded, a line each: which weights were converted, what was left out. */
  notes: readonly string[] = [];
  /**
   * How its checkpoint rounds the inputs of linear layers, by their paths: also where weights were decoded, and layers round no
   * inputs. `prepareQat` begins with these ranges.
   */
  inputRoundings: ReadonlyMap<string, InputRounding> = new Map();
  /** Whether files have the weights of its linear layers as [inFeatures, outFeatures], as transformers' Conv1D does. */
  readonly storesTransposed: boolean = false;
  /** The adapters on it. */
  readonly adapters: Set<Adapter> = new Set();

  /** Keeps what all architectures share. */
  constructor(device: Device, config: ModelConfig, configJson: Json) {
    super();
    this.device = device;
    this.config = config;
    this.configJson = configJson;
  }

  /** The last hidden states, f32 [batch, length, hiddenSize], before the final normalization. */
  protected abstract hidden(
    ids: Tensor,
    positions: Tensor,
    cache?: KeyValueCache,
    checkpointing?: Checkpointing,
  ): Tensor;

  /** Logits of hidden states: f32 [..., hiddenSize] to [..., vocabSize]. */
  protected abstract head(hidden: Tensor): Tensor;

  /** What `head` multiplies, if that is all that it does: not where its weight is quantized, or an adapter is on it. */
  protected abstract headOperands(hidden: Tensor): HeadOperands | null;

  /** Takes rows out of hidden states: f32 [batch, length, hiddenSize] to [places, hiddenSize]. */
  #take(hidden: Tensor, places: Tensor): Tensor {
    const { hiddenSize } = this.config;
    return embedding(reshape(hidden, [hidden.size / hiddenSize, hiddenSize]), places);
  }

  /**
   * Logits for every token.
   *
   * @param ids i32 [batch, length]
   * @param options positions, places, a cache
   * @returns f32 [batch, length, vocabSize], or with `places` [places, vocabSize]
   * @throws {RangeError} if a row is longer than the context
   */
  forward(ids: Tensor, options: ForwardOptions = {}): Tensor {
    return this.head(this.#hiddenAt(ids, options));
  }

  /** Hidden states of every token, or at `places`. */
  #hiddenAt(ids: Tensor, options: ForwardOptions): Tensor {
    checkRank("apply the model", ids, 2, "ids");
    checkDType("apply the model", ids, "i32", "ids");
    const [batch, length] = ids.shape;
    const { contextLength } = this.config;
    if (length > contextLength) {
      throw new RangeError(
        `Cannot apply the model to ids ${
          showShape(ids.shape)
        }: its context has ${contextLength} positions; cut the text into windows`,
      );
    }
    const { positions = this.#positions(batch, length), places, cache, checkpointing } = options;
    const hidden = this.hidden(ids, positions, cache, checkpointing);
    return places ? this.#take(hidden, places) : hidden;
  }

  /**
   * The mean cross-entropy of each token given those before it, as transformers computes it: labels are shifted here.
   *
   * @param ids i32 [batch, length]
   * @param labels i32 [batch, length], often the ids themselves; −100 is ignored
   * @returns f32 [], in nats
   */
  loss(ids: Tensor, labels: Tensor): Tensor {
    checkSameShape("take the loss of ids and labels", ids, labels);
    return this.targetLoss(ids, shiftLabels(labels));
  }

  /**
   * The mean cross-entropy of the model's logits against targets, as `crossEntropy` takes it; but where the output layer is a
   * plain product, logits are made a part of the rows at a time, so that a long batch does not hold them all.
   *
   * @param ids i32 [batch, length]
   * @param targets i32, the token that is wanted at each token, or with `places` at each of them; −100 is ignored
   * @param options positions, places, and what to divide by
   * @returns f32 [], in nats
   */
  targetLoss(ids: Tensor, targets: Tensor, options: LossOptions = {}): Tensor {
    const hidden = this.#hiddenAt(ids, options);
    const operands = this.headOperands(hidden);
    return operands
      ? linearCrossEntropy(operands.hidden, operands.weight, targets, options)
      : crossEntropy(this.head(hidden), targets, options);
  }

  /** The trainable tensors by name: Hugging Face's for the model's own, PEFT's for an adapter's. */
  *parameters(): Generator<Named<Tensor>> {
    for (const [path, module] of this.modules()) {
      for (const [name, tensor] of module.tensors()) {
        if (tensor.requiresGrad) yield [joinPath(path, name), tensor];
      }
      if (!(module instanceof LinearLayer) || !module.branch) continue;
      for (const [name, tensor] of module.branch.tensors()) {
        if (tensor.requiresGrad) yield [`base_model.model.${path}.${name}`, tensor];
      }
    }
  }

  /** The linear layers by path, without the output layer: what adapters and quantizers work on. */
  *linearLayers(): Generator<Named<LinearLayer>> {
    for (const [path, module] of this.modules()) {
      if (module instanceof LinearLayer && path !== "lm_head") yield [path, module];
    }
  }

  /**
   * Puts another linear layer in the place of the one at `path`, such as `model.layers.0.mlp.up_proj`; the old one is not freed.
   *
   * @throws {RangeError} if the model has no linear layer there
   */
  replaceLinear(path: string, layer: LinearLayer): void {
    for (const [own, group] of this.modules()) {
      if (!(group instanceof LinearGroup) || !path.startsWith(`${own}.`)) continue;
      const name = path.slice(own.length + 1);
      if (!Object.hasOwn(group.layers, name)) continue;
      group.layers[name] = layer;
      return;
    }
    throw new RangeError(`Cannot replace "${path}": the model has no linear layer of that name`);
  }

  /** Where factors for channels can be moved from one layer to the next without changing the model, in its own order. */
  *scalings(): Generator<Scaling> {}

  /** Numbers in all, and those that are trained. */
  count(): ParameterCount {
    let [total, trainable] = [0, 0];
    for (const [, module] of this.modules()) {
      const own = [...module.tensors()].map(([, tensor]) => tensor);
      if (module instanceof LinearLayer) {
        if (!own.some((tensor) => tensor.shape.length === 2)) {
          total += module.shape[0] * module.shape[1];
        }
        for (const [, tensor] of module.branch?.tensors() ?? []) own.push(tensor);
      }
      for (const tensor of own) {
        total += tensor.size;
        if (tensor.requiresGrad) trainable += tensor.size;
      }
    }
    return { total, trainable };
  }

  /** Bytes of all weights in memory, without adapters. */
  get weightBytes(): number {
    let bytes = 0;
    for (const [, module] of this.modules()) {
      if (module instanceof LinearLayer) {
        bytes += module.weightBytes + (module.bias?.bytes ?? 0);
      } else {
        for (const [, tensor] of module.tensors()) bytes += tensor.bytes;
      }
    }
    return bytes;
  }

  /** Frees every weight. Adapters free theirs themselves. */
  dispose(): void {
    for (const [, module] of this.modules()) {
      if (module instanceof LinearLayer) module.dispose();
      for (const [, tensor] of module.tensors()) tensor.dispose();
    }
  }

  /** An empty cache for `batch` rows of at most `slots` tokens. */
  newCache(batch: number, slots: number): KeyValueCache {
    const { layers, kvHeads, headSize } = this.config;
    const shape = [batch, slots, kvHeads, headSize];
    return {
      past: zeros(this.device, [1], "i32"),
      blocks: Array.from({ length: layers }, () => ({
        keys: empty(this.device, shape),
        values: empty(this.device, shape),
      })),
    };
  }

  #positions(batch: number, length: number): Tensor {
    const name = `positions ${batch} ${length}`;
    const line = constant(
      this.device,
      name,
      () => Int32Array.from({ length: batch * length }, (_, i) => i % length),
    );
    return viewOf(line, [batch, length]);
  }
}
