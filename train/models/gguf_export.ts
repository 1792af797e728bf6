// deno-lint-ignore-file camelcase -- the names are those of llama.cpp
/**
 * Models to GGUF files, for llama.cpp and what is built on it.
 *
 * @module
 */
import { basename } from "node:path";
import type { Tensor } from "../../core/tensor.ts";
import {
  type GgufField,
  type GgufTensor,
  type GgufWriteType,
  writeGguf,
} from "../files/gguf_write.ts";
import { tokenizerMetadata } from "../files/gguf_write_tokenizer.ts";
import { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import { LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { configFields, ggufArchitecture, ropeFactors } from "./gguf_export_config.ts";
import { ggufNameOf, isPermuted, permuteRows } from "./gguf_names.ts";
import type { LanguageModel } from "./language_model.ts";
import type { LlamaConfig } from "./llama.ts";
import { readFloats } from "../nn/widen.ts";

/** How a model is written as GGUF. */
export interface SaveGgufOptions {
  /**
   * What its matrices are stored in: "f16" by default; "q8_0" takes 8.5 bits a weight, "q4_0" 4.5. Beside "q4_0" the output layer
   * is in Q8_0, where errors cost most. Norms and biases stay in 32 bits, as llama.cpp has them, and rows that are not made of
   * blocks of 32 in F16.
   */
  readonly type?: "f32" | "f16" | "q8_0" | "q4_0";
  /** `general.name`, which llama.cpp shows: by default the file's, without its end. */
  readonly name?: string;
}

type SavedType = NonNullable<SaveGgufOptions["type"]>;

/** ggml's type of the matrices, and llama.cpp's number of a file of them. */
const TYPES: Readonly<Record<SavedType, readonly [type: GgufWriteType, fileType: number]>> = {
  f32: ["F32", 0],
  f16: ["F16", 1],
  q8_0: ["Q8_0", 7],
  q4_0: ["Q4_0", 2],
};

/** How a tensor is stored. */
function typeOf(shape: readonly number[], type: SavedType, isOutput: boolean): GgufWriteType {
  if (shape.length < 2) return "F32";
  const [own] = TYPES[type];
  const isQuantized = own === "Q8_0" || own === "Q4_0";
  if (isQuantized && shape.at(-1)! % 32 !== 0) return "F16";
  return isOutput && isQuantized ? "Q8_0" : own;
}

async function readDecoded(layer: QuantizedLinear): Promise<Float32Array> {
  using dense = layer.dense();
  return await dense.read() as Float32Array;
}

/** Throws if a layer has an adapter, or is still trained to be rounded: the file would be without that. */
function checkLayers(model: LanguageModel): void {
  for (const [path, module] of model.modules()) {
    if (module instanceof FakeQuantLinear) {
      throw new TypeError(
        `Cannot write the model as GGUF: "${path}" is in quantization-aware training; call convertQat first, or remove() ` +
          "what prepareQat returned",
      );
    }
    if (!(module instanceof LinearLayer) || !module.branch) continue;
    throw new TypeError(
      `Cannot write the model as GGUF: found an adapter on "${path}", wanted none; call mergeAdapter first, or write the ` +
        "adapter to a file of its own with saveGgufAdapter",
    );
  }
}

/** Every tensor of the file, by llama.cpp's name. */
function tensorsOf(
  model: LanguageModel,
  type: SavedType,
  { architecture, config }: { architecture: string; config: LlamaConfig },
): Map<string, GgufTensor> {
  const tensors = new Map<string, GgufTensor>();
  const output = config.tiedEmbeddings ? "model.embed_tokens" : "lm_head";
  const add = (
    path: string,
    name: string,
    shape: readonly number[],
    read: () => Promise<Float32Array>,
  ) => {
    const inOrder = isPermuted(architecture, path)
      ? async () => permuteRows(await read(), shape[0], config.headSize)
      : read;
    const dtype = typeOf(shape, type, path === output);
    tensors.set(`${ggufNameOf(path)}.${name}`, { dtype, shape, read: inOrder });
  };
  const reader = (own: Tensor) => () => readFloats(own);
  for (const [path, module] of model.modules()) {
    if (module instanceof QuantizedLinear) {
      add(path, "weight", module.shape, () => readDecoded(module));
    }
    for (const [name, own] of module.tensors()) add(path, name, own.shape, reader(own));
  }
  const factors = ropeFactors(config);
  if (factors) tensors.set("rope_freqs.weight", factors);
  return tensors;
}

/** What llama.cpp wants to know of the tokens; a model without a tokenizer has at least the special ids of its config.json. */
function tokenFields(model: LanguageModel): Map<string, GgufField> {
  const { tokenizer, config, configJson } = model;
  if (tokenizer) return tokenizerMetadata(tokenizer, config.vocabSize);
  const fields = new Map<string, GgufField>([["tokenizer.ggml.model", "none"]]);
  for (const [name, field] of [["bos", "bos"], ["eos", "eos"], ["padding", "pad"]]) {
    const ids = configJson[`${field}_token_id`];
    const value: unknown = Array.isArray(ids) ? ids[0] : ids;
    if (typeof value !== "number" || value < 0 || value >= config.vocabSize) continue;
    fields.set(`tokenizer.ggml.${name}_token_id`, { type: "u32", value });
  }
  return fields;
}

/**
 * Writes a model as a GGUF file that llama.cpp and `loadModel` read: a Llama, Mistral, Qwen2 or Qwen3 with its tokenizer and chat
 * template. Quantized weights are decoded first. The file appears whole or not at all, and one tensor at a time is on the host.
 * Adapters are not in it: merge them first, or write them with `saveGgufAdapter`.
 *
 * @param model the model
 * @param path where to, ending in ".gguf"; a file that is there is replaced
 * @param options the type of the weights
 * @throws {TypeError} if a layer has an adapter, or llama.cpp has no such architecture, positions or tokenizer
 * @throws {RangeError} if a weight is NaN or infinite, or too large for the type
 * @throws {Error} if the file cannot be written
 *
 * @example
 * ```ts
 * import { loadModel, openDevice, randomModel, saveGguf } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const path = `${await Deno.makeTempDir()}/tiny.gguf`;
 * await saveGguf(model, path, { type: "q8_0" });
 * const again = await loadModel(device, path);
 * console.log(again.config.heads, again.notes.at(-1)); // 4 14 weights stored as Q8_0: kept
 * ```
 */
export async function saveGguf(
  model: LanguageModel,
  path: string,
  { type = "f16", name }: SaveGgufOptions = {},
): Promise<void> {
  if (!Object.hasOwn(TYPES, type)) {
    throw new RangeError(
      `Cannot write the model as GGUF: found the type "${type}", wanted one of ${
        Object.keys(TYPES).join(", ")
      }`,
    );
  }
  checkLayers(model);
  const kind = ggufArchitecture(model);
  const metadata = new Map<string, GgufField>([
    ["general.architecture", kind.architecture],
    ["general.type", "model"],
    ["general.name", name ?? basename(path).replace(/\.gguf$/i, "")],
    ["general.file_type", { type: "u32", value: TYPES[type][1] }],
    ["general.quantization_version", { type: "u32", value: 2 }],
    ...configFields(kind.architecture, kind.config),
    ...tokenFields(model),
  ]);
  await writeGguf(path, metadata, tensorsOf(model, type, kind));
}
