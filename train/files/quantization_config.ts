// deno-lint-ignore-file camelcase -- the names are those of the file
/**
 * The part of config.json that says how a checkpoint is quantized, as transformers' `BitsAndBytesConfig` writes it.
 *
 * @module
 */
import type { FourBitType } from "../../kernels/quant/tables.ts";
import { brief } from "./json_text.ts";
import type { Json } from "./tokenizer.ts";

/** What transformers writes for a model in 4 bits, in its order. */
const FOUR_BIT = {
  _load_in_4bit: true,
  _load_in_8bit: false,
  bnb_4bit_compute_dtype: "float32",
  bnb_4bit_quant_storage: "uint8",
  bnb_4bit_quant_type: "fp4",
  bnb_4bit_use_double_quant: false,
  llm_int8_enable_fp32_cpu_offload: false,
  llm_int8_has_fp16_weight: false,
  llm_int8_skip_modules: null,
  llm_int8_threshold: 6.0,
  load_in_4bit: true,
  load_in_8bit: false,
  quant_method: "bitsandbytes",
};

/** What a `quantization_config` is made of. */
export interface FourBitConfig {
  /** The type of the weights. */
  readonly type: FourBitType;
  /** Whether scales are quantized too. */
  readonly doubleQuant: boolean;
  /** What Python computes in, in PyTorch's words. */
  readonly dtype: string;
  /** Linear layers that are not quantized, if there are any. The output layer never is. */
  readonly plain: readonly string[];
}

/**
 * The `quantization_config` of a model in 4 bits.
 *
 * @param config what was quantized, and how
 * @param earlier the one that the model came with, if it did: what nibble does not know stays as it was
 */
export function quantizationConfig(config: FourBitConfig, earlier?: unknown): Json {
  const { type, doubleQuant, dtype, plain } = config;
  return {
    ...FOUR_BIT,
    bnb_4bit_compute_dtype: dtype,
    ...Object(earlier),
    ...{ _load_in_4bit: true, _load_in_8bit: false, load_in_4bit: true, load_in_8bit: false },
    quant_method: "bitsandbytes",
    bnb_4bit_quant_storage: "uint8",
    bnb_4bit_quant_type: type,
    bnb_4bit_use_double_quant: doubleQuant,
    // A list of one's own replaces transformers' own list, which holds the output layer.
    llm_int8_skip_modules: plain.length > 0 ? [...plain, "lm_head"] : null,
  };
}

/**
 * Whether a config.json says that its weights are in bitsandbytes' 4 bits.
 *
 * @param json the parsed file
 * @param path its name, for errors
 * @throws {TypeError} if they are quantized in another way
 */
export function saysFourBit(json: Json, path: string): boolean {
  if (json.quantization_config === undefined || json.quantization_config === null) return false;
  const config = Object(json.quantization_config);
  const isFourBit = config.quant_method === undefined || config.quant_method === "bitsandbytes"
    ? config.load_in_4bit === true || config._load_in_4bit === true
    : false;
  if (isFourBit) return true;
  const found = config.quant_method ?? "an unnamed method";
  const method = config.load_in_8bit
    ? "bitsandbytes in 8 bits"
    : found === "compressed-tensors"
    ? `compressed-tensors in the format ${brief(config.format)}`
    : typeof found === "string"
    ? found.slice(0, 80)
    : brief(found);
  throw new TypeError(
    `Cannot load the model of "${path}": its weights are quantized by ${method}, wanted bitsandbytes in 4 bits, compressed-tensors in integers, nibble's own format, or plain weights; use the model that it was made from`,
  );
}
