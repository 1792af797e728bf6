/**
 * The architectures that nibble knows.
 *
 * @module
 */
import { ConfigFields, type ModelConfig } from "../files/config.ts";
import type { Json } from "../files/tokenizer.ts";
import type { Architecture, Blueprint } from "./architecture.ts";
import { GPT2 } from "./gpt2.ts";
import { LLAMA } from "./llama.ts";

/** All of them. */
const ARCHITECTURES: readonly Architecture[] = [LLAMA, GPT2];

/** What config.json's `model_type` may be. */
const MODEL_TYPES: readonly string[] = ARCHITECTURES.flatMap(({ modelTypes }) => modelTypes).sort();

/**
 * What the architecture makes of a config.json.
 *
 * @param json its content
 * @param path where it was found, for errors
 * @throws {TypeError} if the architecture is not known, or a field is missing or makes no sense
 */
export function blueprintOf(json: Json, path: string): Blueprint {
  const fields = new ConfigFields(json, path);
  const { model_type: modelType } = json;
  const architecture = ARCHITECTURES.find(({ modelTypes }) =>
    modelTypes.includes(modelType as string)
  );
  if (architecture) return architecture.plan(fields, modelType as string);
  const names = MODEL_TYPES.map((name) => `"${name}"`).join(", ");
  throw fields.fault("model_type", `one of the architectures that nibble knows: ${names}`);
}

/**
 * Reads the content of a config.json.
 *
 * @param json the parsed file
 * @param path its name, for errors
 * @returns the sizes; each architecture's own type, such as `LlamaConfig`, has more
 * @throws {TypeError} if the architecture is not known, or a field is missing or makes no sense
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
 * console.log(config.headSize, config.contextLength); // 16 2048
 * ```
 */
export function parseConfig(json: Json, path = "config.json"): ModelConfig {
  return blueprintOf(json, path).config;
}
