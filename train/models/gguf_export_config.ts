// deno-lint-ignore-file camelcase -- the names are those of llama.cpp
/**
 * A model's configuration as the metadata of a GGUF file.
 *
 * @module
 */
import type { GgufField, GgufTensor } from "../files/gguf_write.ts";
import type { RopeScaling } from "../files/rope_config.ts";
import type { LanguageModel } from "./language_model.ts";
import { Llama, type LlamaConfig } from "./llama.ts";

/** What llama.cpp calls the architectures. A Mistral is a Llama to it. */
const ARCHITECTURES: ReadonlyMap<string, string> = new Map([
  ["llama", "llama"],
  ["mistral", "llama"],
  ["qwen2", "qwen2"],
  ["qwen3", "qwen3"],
]);

/**
 * llama.cpp's name of a model's architecture, and its configuration.
 *
 * @throws {TypeError} if llama.cpp, or nibble's GGUF, has no such architecture
 */
export function ggufArchitecture(
  model: LanguageModel,
): { architecture: string; config: LlamaConfig } {
  const { modelType } = model.config;
  const architecture = ARCHITECTURES.get(modelType);
  if (!(model instanceof Llama) || !architecture) {
    throw new TypeError(
      `Cannot write as GGUF: found a model of the architecture "${modelType}", wanted one of ${
        [...ARCHITECTURES.keys()].join(", ")
      }; save it with saveModel, and let llama.cpp's convert_hf_to_gguf.py convert the folder`,
    );
  }
  if (modelType === "qwen3" && model.config.attentionBias !== "none") {
    throw new TypeError(
      "Cannot write as GGUF: found a Qwen3 with biases in its attention, wanted one without, as llama.cpp computes it",
    );
  }
  return { architecture, config: model.config };
}

/** What nibble's YaRN must be for llama.cpp to compute the same: it has these numbers built in. */
function checkYarn({ factor, ...own }: Extract<RopeScaling, { kind: "yarn" }>): void {
  const wanted = {
    betaFast: 32,
    betaSlow: 1,
    truncate: true,
    attentionFactor: factor <= 1 ? 1 : 0.1 * Math.log(factor) + 1,
  };
  for (const [key, value] of Object.entries(wanted)) {
    const found = own[key as keyof typeof wanted];
    if (Math.abs(Number(found) - Number(value)) < 1e-6) continue;
    throw new TypeError(
      `Cannot write as GGUF: found YaRN with ${key} ${found}, wanted ${value}, which llama.cpp takes`,
    );
  }
}

/** How RoPE is stretched. Dynamic scaling changes nothing within the context, so there is nothing to say of it. */
function* scalingFields(scaling: RopeScaling | null): Generator<[string, GgufField]> {
  if (scaling?.kind !== "linear" && scaling?.kind !== "yarn") return;
  yield ["rope.scaling.type", scaling.kind];
  yield ["rope.scaling.factor", { type: "f32", value: scaling.factor }];
  if (scaling.kind !== "yarn") return;
  checkYarn(scaling);
  yield ["rope.scaling.original_context_length", { type: "u32", value: scaling.originalLength }];
}

/** The sizes of a model, by llama.cpp's keys. */
export function* configFields(
  architecture: string,
  config: LlamaConfig,
): Generator<[string, GgufField]> {
  const counts: Readonly<Record<string, number>> = {
    vocab_size: config.vocabSize,
    context_length: config.contextLength,
    embedding_length: config.hiddenSize,
    block_count: config.layers,
    feed_forward_length: config.intermediateSize,
    "attention.head_count": config.heads,
    "attention.head_count_kv": config.kvHeads,
    "attention.key_length": config.headSize,
    "attention.value_length": config.headSize,
    "rope.dimension_count": config.headSize,
  };
  for (const [key, value] of Object.entries(counts)) {
    yield [`${architecture}.${key}`, { type: "u32", value }];
  }
  const epsilon = `${architecture}.attention.layer_norm_rms_epsilon`;
  yield [epsilon, { type: "f32", value: config.normEpsilon }];
  yield [`${architecture}.rope.freq_base`, { type: "f32", value: config.rope.theta }];
  for (const [key, field] of scalingFields(config.rope.scaling)) {
    yield [`${architecture}.${key}`, field];
  }
}

/** Llama 3's scaling is no number in GGUF, but a tensor: by how much each frequency of RoPE is divided. */
export function ropeFactors({ headSize, rope }: LlamaConfig): GgufTensor | null {
  const { theta, scaling } = rope;
  if (scaling?.kind !== "llama3") return null;
  const { factor, lowFrequency: low, highFrequency: high, originalLength } = scaling;
  const factors = Float32Array.from({ length: headSize / 2 }, (_, i) => {
    const turns = originalLength / (2 * Math.PI * theta ** (2 * i / headSize));
    const smooth = Math.min(1, Math.max(0, (turns - low) / (high - low)));
    return 1 / ((1 - smooth) / factor + smooth);
  });
  return { dtype: "F32", shape: [headSize / 2], read: () => factors };
}
