/**
 * What an architecture tells of itself, and what its models are made from.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { Tensor } from "../../core/tensor.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { ConfigFields, ModelConfig } from "../files/config.ts";
import type { Json } from "../files/tokenizer.ts";
import { Linear, type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { TransposedLinear } from "../nn/transposed_linear.ts";
import type { LanguageModel } from "./language_model.ts";

/** A weight that a model wants. */
export interface WeightSpec {
  /** Its shape in a file. */
  readonly shape: readonly number[];
  /** What it is; only linear weights are quantized. The output layer stays in 32 bits, as bitsandbytes and PEFT leave it. */
  readonly role: "linear" | "bias" | "norm" | "embedding" | "head";
  /**
   * Whether a linear weight lies as [inFeatures, outFeatures] in files, as in transformers' Conv1D. In 4 bits it lies as
   * [outFeatures, inFeatures] like all others: bitsandbytes turns it over before it quantizes.
   */
  readonly transposed?: boolean;
  /** A factor of the deviation of random weights: 1 by default. */
  readonly spread?: number;
}

/** A model's weights by Hugging Face's names; those of linear layers may be quantized. */
export type Weights = ReadonlyMap<string, Tensor | QuantizedTensor>;

/** What an architecture makes of one config.json. */
export interface Blueprint {
  /** The sizes. */
  readonly config: ModelConfig;
  /** Every weight, by Hugging Face's name. */
  readonly weights: ReadonlyMap<string, WeightSpec>;
  /** What the names begin with, but not in files of a model without its output layer, such as the hub's gpt2. */
  readonly prefix: string;
  /** Names of tensors that files may also have, and that say nothing: buffers of older versions of transformers. */
  readonly harmless: RegExp;
  /** Makes the model. */
  create(device: Device, configJson: Json, weights: Weights): LanguageModel;
}

/** A kind of model. Each is one file, and one line in architectures.ts. */
export interface Architecture {
  /** What `model_type` in config.json calls it and its relatives. */
  readonly modelTypes: readonly string[];
  /** Reads a config.json whose `model_type` is one of them. */
  plan(fields: ConfigFields, modelType: string): Blueprint;
}

/** Hands out a model's weights, as layers. */
export class Parts {
  readonly #weights: Weights;

  constructor(weights: Weights) {
    this.#weights = weights;
  }

  #find(name: string): Tensor | QuantizedTensor {
    const found = this.#weights.get(name);
    if (found) return found;
    throw new TypeError(`Cannot make the model: it has no weight "${name}"`);
  }

  /** A weight that is not quantized. */
  tensor(name: string): Tensor {
    const found = this.#find(name);
    if (found instanceof Tensor) return found;
    throw new TypeError(`Cannot make the model: "${name}" may not be quantized`);
  }

  /** A linear layer, with a bias where there is one. */
  linear(name: string, transposed = false): LinearLayer {
    const weight = this.#find(`${name}.weight`);
    const bias = this.#weights.has(`${name}.bias`) ? this.tensor(`${name}.bias`) : null;
    if (!(weight instanceof Tensor)) return new QuantizedLinear(weight, bias);
    return transposed ? new TransposedLinear(weight, bias) : new Linear(weight, bias);
  }
}
