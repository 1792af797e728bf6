/**
 * What a model takes in memory while it answers, by scheme: reckoned from its config.json, before anything is loaded.
 *
 * @module
 */
import type { Json } from "../files/tokenizer.ts";
import { blueprintOf } from "../models/architectures.ts";
import type { Blueprint } from "../models/architecture.ts";
import { parseScheme } from "./policy.ts";
import { schemeBytes } from "./scheme_size.ts";

/** What is planned for. */
export interface MemoryPlanOptions {
  /** Schemes of the linear layers: "f32", "f16", or as `parseScheme` takes them. By default f32, f16, int8, int4, nf4 and nf4-dq. */
  readonly schemes?: readonly string[];
  /** Tokens of prompt and answer together; 2,048 by default, or the model's context if that is less. */
  readonly tokens?: number;
  /** What the embedding and an output layer of its own are kept in; "f16" by default. Norms and biases are in 32 bits. */
  readonly rest?: "f32" | "f16";
  /** Bytes that there are; without, nothing is said of what fits. */
  readonly memory?: number;
}

/** A model in one scheme. */
export interface SchemeMemory {
  /** Of the linear layers. */
  readonly scheme: string;
  /** Bits for each weight of them, scales and zero points included. */
  readonly bitsPerWeight: number;
  /** Bytes of the linear layers. */
  readonly linearBytes: number;
  /** Bytes of all other weights. */
  readonly restBytes: number;
  /** Bytes of keys and values, in 32 bits. */
  readonly cacheBytes: number;
  /** Bytes that are computed on the way, about: most for a prompt of all the tokens. */
  readonly workBytes: number;
  /** The sum. */
  readonly totalBytes: number;
  /** Whether there is room for it; null if it was not said how much room there is. */
  readonly fits: boolean | null;
  /** How many tokens there is room for, at most the context; 0 if the weights alone are too many. Null as `fits`. */
  readonly tokensThatFit: number | null;
}

/** A model in several schemes. */
export interface MemoryPlan {
  /** All numbers of the model. */
  readonly parameters: number;
  /** Those in linear layers, which are quantized. */
  readonly linearWeights: number;
  /** Tokens that were planned for. */
  readonly tokens: number;
  /** In the order that was asked for. */
  readonly schemes: readonly SchemeMemory[];
}

const SCHEMES = ["f32", "f16", "int8", "int4", "nf4", "nf4-dq"];

const sizeOf = (shape: readonly number[]) => shape.reduce((size, length) => size * length, 1);

/** Bytes of a linear weight. Turned ones lie like all others when they are quantized. */
function linearBytes(name: string, shape: readonly number[], transposed = false): number {
  const [rows, columns] = transposed ? [shape[1], shape[0]] : shape;
  return name === "f16" ? 2 * rows * columns : schemeBytes(parseScheme(name), [rows, columns]);
}

/** Keys and values of a token in all blocks. */
function cacheOfToken({ config }: Blueprint): number {
  return config.layers * 2 * config.kvHeads * config.headSize * 4;
}

/**
 * What a prompt's token takes on the way, about: in one block its queries, keys and values before and after rotation, what attention
 * gives, gate and up and their product, some states, and what biases are added to. Blocks follow one another in the same memory.
 */
function workOfToken({ config, weights }: Blueprint): number {
  const { hiddenSize, intermediateSize, layers, heads, kvHeads, headSize } = config;
  const widths = heads * headSize + kvHeads * headSize;
  const normed = "headNorms" in config && config.headNorms ? widths : 0;
  let biases = 0;
  for (const { role, shape } of weights.values()) if (role === "bias") biases += sizeOf(shape);
  return 4 * (4 * widths + normed + 3 * intermediateSize + 4 * hiddenSize + biases / layers);
}

/** Logits of a token, and what sampling makes of them. */
const workOfAnswer = ({ config }: Blueprint) => 2 * 4 * config.vocabSize;

function check(tokens: number, memory: number | undefined, contextLength: number): void {
  if (!Number.isSafeInteger(tokens) || tokens < 1 || tokens > contextLength) {
    throw new RangeError(
      `Cannot plan for ${tokens} tokens: wanted a whole number from 1 to ${contextLength}, the model's context`,
    );
  }
  if (memory !== undefined && !(memory > 0)) {
    throw new RangeError(`Cannot plan for a memory of ${memory} bytes: wanted a number above 0`);
  }
}

/**
 * Plans a model's memory while it answers one prompt. Weights and cache are exact; what is computed on the way is within a
 * fifth, but for the partial sums that a GPU needs where products are too small to fill it.
 *
 * @param config the content of config.json
 * @param options the schemes, how long the text is, how much memory there is
 * @param path the name of config.json, for errors
 * @throws {TypeError} if the architecture is not known
 * @throws {RangeError} for a scheme that there is not, more tokens than the context holds, or no memory
 *
 * @example Llama-2-7B on a phone with 8 GB
 * ```ts
 * import { planMemory } from "@nibble/nibble";
 *
 * const llama = {
 *   model_type: "llama",
 *   vocab_size: 32_000,
 *   hidden_size: 4096,
 *   intermediate_size: 11_008,
 *   num_hidden_layers: 32,
 *   num_attention_heads: 32,
 *   max_position_embeddings: 4096,
 * };
 * for (const { scheme, totalBytes, fits } of planMemory(llama, { memory: 8e9 }).schemes) {
 *   console.log(scheme, `${(totalBytes / 1e9).toFixed(1)} GB`, fits ? "fits" : "does not");
 * }
 * ```
 */
export function planMemory(
  config: Json,
  options: MemoryPlanOptions = {},
  path = "config.json",
): MemoryPlan {
  const blueprint = blueprintOf(config, path);
  const { contextLength } = blueprint.config;
  const { schemes = SCHEMES, rest = "f16", memory } = options;
  const tokens = options.tokens ?? Math.min(2048, contextLength);
  check(tokens, memory, contextLength);
  const weights = [...blueprint.weights.values()];
  const linear = weights.filter(({ role }) => role === "linear");
  const count = (own: typeof weights) => own.reduce((sum, { shape }) => sum + sizeOf(shape), 0);
  const linearWeights = count(linear);
  const restBytes = weights.reduce((sum, { role, shape }) => {
    if (role === "linear") return sum;
    const halved = rest === "f16" && (role === "embedding" || role === "head");
    return sum + (halved ? 2 : 4) * sizeOf(shape);
  }, 0);
  const ofToken = cacheOfToken(blueprint) + workOfToken(blueprint);
  const plans = schemes.map((scheme): SchemeMemory => {
    const own = linear.reduce(
      (sum, { shape, transposed }) => sum + linearBytes(scheme, shape, transposed),
      0,
    );
    const cacheBytes = tokens * cacheOfToken(blueprint);
    const workBytes = tokens * workOfToken(blueprint) + workOfAnswer(blueprint);
    const totalBytes = own + restBytes + cacheBytes + workBytes;
    const room = memory === undefined ? null : memory - own - restBytes - workOfAnswer(blueprint);
    return {
      ...{ scheme, bitsPerWeight: 8 * own / linearWeights },
      ...{ linearBytes: own, restBytes, cacheBytes, workBytes, totalBytes },
      fits: memory === undefined ? null : totalBytes <= memory,
      tokensThatFit: room === null
        ? null
        : Math.max(0, Math.min(contextLength, Math.floor(room / ofToken))),
    };
  });
  return { parameters: count(weights), linearWeights, tokens, schemes: plans };
}
