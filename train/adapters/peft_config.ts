/**
 * adapter_config.json, as PEFT reads and writes it (github.com/huggingface/peft, `src/peft/tuners/lora/config.py`).
 *
 * @module
 */
import type { Json } from "../files/tokenizer.ts";
import { completeLora, type Lora, type LoraOptions } from "./lora.ts";
import { ALL_LINEAR, lastNames } from "./targets.ts";

/** The PEFT whose keys are written. */
const PEFT_VERSION = "0.21.2";

/** Models whose linear layers transformers stores transposed, which PEFT calls fan_in_fan_out; A and B are the same in both. */
const TRANSPOSED: readonly string[] = ["gpt2"];

/** Ways to begin that leave the model's own weights alone; others, such as "pissa", change them at load. */
const HARMLESS_STARTS: readonly unknown[] = [true, false, "gaussian", "eva", "orthogonal"];

/** Keys that must be unset, as they change what the adapter computes or which layers it is on. */
const UNSUPPORTED: readonly string[] = [
  "alora_invocation_tokens",
  "arrow_config",
  "exclude_modules",
  "kasa_config",
  "layer_replication",
  "layers_pattern",
  "layers_to_transform",
  "lora_bias",
  "megatron_config",
  "modules_to_save",
  "monteclora_config",
  "target_parameters",
  "trainable_token_indices",
  "velora_config",
];

/** Whether a key says nothing: null, false, or an empty list or object. */
function isUnset(value: unknown): boolean {
  return value === undefined || value === null || value === false ||
    (typeof value === "object" && Object.keys(value).length === 0);
}

function fault(path: string, field: string, value: unknown, wanted: string): TypeError {
  return new TypeError(
    `Cannot read the adapter's configuration "${path}": "${field}" is ${
      JSON.stringify(value) ?? "missing"
    }, wanted ${wanted}`,
  );
}

/** Throws unless the adapter is one that nibble computes as PEFT does. */
function checkSupported(json: Json, path: string, modelType: string): void {
  if (json.peft_type !== "LORA") throw fault(path, "peft_type", json.peft_type, '"LORA"');
  const without =
    "nothing: nibble does not have this part of PEFT; train or export the adapter without it";
  // Variants of LoRA are switched on by keys of this form, also those that later versions of PEFT may bring.
  const variants = Object.keys(json).filter((key) =>
    key.startsWith("use_") && key !== "use_rslora"
  );
  for (const field of [...variants, ...UNSUPPORTED]) {
    if (!isUnset(json[field])) throw fault(path, field, json[field], without);
  }
  if (json.bias !== undefined && json.bias !== "none") {
    throw fault(path, "bias", json.bias, '"none"');
  }
  const start = json.init_lora_weights ?? true;
  if (!HARMLESS_STARTS.includes(start)) {
    throw fault(
      path,
      "init_lora_weights",
      start,
      "true: this start changes the model's own weights; save the adapter with path_initial_model_for_weight_conversion",
    );
  }
  if (!isUnset(json.fan_in_fan_out) && !TRANSPOSED.includes(modelType)) {
    throw fault(path, "fan_in_fan_out", json.fan_in_fan_out, `false for a ${modelType} model`);
  }
}

/** Numbers by pattern. */
function patterns(json: Json, field: string, path: string): Record<string, number> {
  const value = json[field] ?? {};
  const isFine = typeof value === "object" && !Array.isArray(value) &&
    Object.values(value as object).every((number) => typeof number === "number");
  if (!isFine) throw fault(path, field, value, "an object of numbers");
  return value as Record<string, number>;
}

function number(json: Json, field: string, fallback: number, path: string): number {
  const value = json[field] ?? fallback;
  if (typeof value !== "number") throw fault(path, field, value, "a number");
  return value;
}

/**
 * The options in an adapter_config.json.
 *
 * @param json its content
 * @param path where it was found, for errors
 * @param modelType the architecture of the model that the adapter shall go on
 * @throws {TypeError} if the adapter is of a kind that nibble does not have, or a field holds something else than it should
 * @throws {RangeError} if a number is out of range
 */
export function parseAdapterConfig(
  json: Json,
  path: string,
  modelType: string,
): Required<LoraOptions> {
  checkSupported(json, path, modelType);
  const targets = json.target_modules;
  const isList = Array.isArray(targets) && targets.every((entry) => typeof entry === "string");
  if (typeof targets !== "string" && !isList) {
    throw fault(path, "target_modules", targets, "a list of names, or a string");
  }
  const useRslora = json.use_rslora ?? false;
  if (typeof useRslora !== "boolean") throw fault(path, "use_rslora", useRslora, "true or false");
  const options: LoraOptions = {
    r: number(json, "r", 8, path),
    // PEFT's own default, where addLora's is 16.
    alpha: number(json, "lora_alpha", 8, path),
    dropout: number(json, "lora_dropout", 0, path),
    targetModules: targets as string | string[],
    useRslora,
    rankPattern: patterns(json, "rank_pattern", path),
    alphaPattern: patterns(json, "alpha_pattern", path),
  };
  try {
    return completeLora(options);
  } catch (error) {
    throw new RangeError(
      `Cannot read the adapter's configuration "${path}": ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** The adapter_config.json of an adapter: every key that PEFT writes, in PEFT's order. */
export function adapterConfigJson(lora: Lora, baseModel: string | null): Json {
  const { r, alpha, dropout, targetModules, useRslora, rankPattern, alphaPattern } = lora.options;
  return {
    alora_invocation_tokens: null,
    alpha_pattern: alphaPattern,
    arrow_config: null,
    auto_mapping: null,
    base_model_name_or_path: baseModel,
    bias: "none",
    corda_config: null,
    ensure_weight_tying: false,
    eva_config: null,
    exclude_modules: null,
    fan_in_fan_out: TRANSPOSED.includes(lora.model.config.modelType),
    inference_mode: true,
    init_lora_weights: true,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: null,
    layers_to_transform: null,
    loftq_config: {},
    lora_alpha: alpha,
    lora_bias: false,
    lora_dropout: dropout,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: null,
    monteclora_config: null,
    peft_type: "LORA",
    peft_version: PEFT_VERSION,
    qalora_group_size: 16,
    r,
    rank_pattern: rankPattern,
    revision: null,
    // PEFT too spells the word out: the names mean the same layers to every reader.
    target_modules: targetModules === ALL_LINEAR
      ? lastNames(lora.branches.keys()).sort()
      : targetModules,
    target_parameters: null,
    task_type: "CAUSAL_LM",
    trainable_token_indices: null,
    use_bdlora: null,
    use_dora: false,
    use_qalora: false,
    use_rslora: useRslora,
    velora_config: null,
  };
}
