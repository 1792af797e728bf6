/**
 * adapter_config.json, as PEFT reads and writes it (github.com/huggingface/peft, `src/peft/tuners/lora/config.py`).
 *
 * @module
 */
import { brief } from "../files/json_text.ts";
import type { Json } from "../files/tokenizer.ts";
import type { Lora } from "./lora.ts";
import { type CompleteLora, completeLora } from "./lora_options.ts";
import { ALL_LINEAR, lastNames } from "./targets.ts";

/** The PEFT whose keys are written. */
const PEFT_VERSION = "0.21.2";

/** Models whose linear layers transformers stores transposed, which PEFT calls fan_in_fan_out; A and B are the same in both. */
const TRANSPOSED: readonly string[] = ["gpt2"];

/** Ways to begin that leave the model's own weights alone. */
const HARMLESS_STARTS: readonly unknown[] = [true, false, "gaussian", "eva", "orthogonal"];

/** Ways to begin that PEFT repeats when it loads the adapter: they take A and B's first values out of the model's own weights. */
const REPEATED_STARTS: readonly unknown[] = ["pissa", "olora"];

/** Keys that must be unset, as they change what the adapter computes or which layers it is on. */
const UNSUPPORTED: readonly string[] = [
  "alora_invocation_tokens",
  "arrow_config",
  "kasa_config",
  "layer_replication",
  "lora_bias",
  "megatron_config",
  "monteclora_config",
  "target_parameters",
  "trainable_token_indices",
  "velora_config",
];

/** Variants of LoRA that nibble has, by the key that switches them on. */
const VARIANTS: readonly string[] = ["use_rslora", "use_dora"];

/** Whether a key says nothing: null, false, or an empty list or object. */
function isUnset(value: unknown): boolean {
  return value === undefined || value === null || value === false ||
    (typeof value === "object" && Object.keys(value).length === 0);
}

function fault(path: string, field: string, value: unknown, wanted: string): TypeError {
  return new TypeError(
    `Cannot read the adapter's configuration "${path}": "${field}" is ${
      value === undefined ? "missing" : brief(value)
    }, wanted ${wanted}`,
  );
}

/** Throws unless nibble can do with the model's weights what PEFT does with them when it loads the adapter. */
function checkStart(start: unknown, path: string, modelType: string): void {
  if (HARMLESS_STARTS.includes(start)) return;
  const instead =
    "save the adapter in PEFT with path_initial_model_for_weight_conversion, which makes it plain LoRA";
  if (!REPEATED_STARTS.includes(start)) {
    const reason = String(start).startsWith("pissa_niter_")
      ? "a random decomposition cannot be repeated"
      : "this start changes the model's own weights in a way that nibble does not have";
    throw fault(
      path,
      "init_lora_weights",
      start,
      `true, "gaussian", "pissa" or "olora": ${reason}; ${instead}`,
    );
  }
  if (start === "olora" && TRANSPOSED.includes(modelType)) {
    throw fault(
      path,
      "init_lora_weights",
      start,
      `another start for a ${modelType} model: PEFT decomposes its weights transposed, which fits only square ones; ${instead}`,
    );
  }
}

/** Throws unless the adapter is one that nibble computes as PEFT does. */
function checkSupported(json: Json, path: string, modelType: string): void {
  if (json.peft_type !== "LORA") throw fault(path, "peft_type", json.peft_type, '"LORA"');
  const without =
    "nothing: nibble does not have this part of PEFT; train or export the adapter without it";
  // Variants of LoRA are switched on by keys of this form, also those that later versions of PEFT may bring.
  const variants = Object.keys(json).filter((key) =>
    key.startsWith("use_") && !VARIANTS.includes(key)
  );
  for (const field of [...variants, ...UNSUPPORTED]) {
    if (!isUnset(json[field])) throw fault(path, field, json[field], without);
  }
  if (json.bias !== undefined && json.bias !== "none") {
    throw fault(path, "bias", json.bias, '"none"');
  }
  checkStart(json.init_lora_weights ?? true, path, modelType);
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

/** A list of names, or a string where `orString` allows it. Null where the key says nothing. */
function names(
  json: Json,
  field: string,
  path: string,
  orString: boolean,
): string | string[] | null {
  const value = json[field];
  if (value === undefined || value === null) return null;
  if (orString && typeof value === "string") return value;
  if (Array.isArray(value) && value.every((entry) => typeof entry === "string")) return value;
  throw fault(path, field, value, `a list of names${orString ? ", or a string" : ""}`);
}

/** A value alone, or a list, as a list. */
function listOf<T>(value: T | readonly T[] | null | undefined): readonly T[] {
  return Array.isArray(value) ? value : value === null || value === undefined ? [] : [value as T];
}

function flag(json: Json, field: string, path: string): boolean {
  const value = json[field] ?? false;
  if (typeof value !== "boolean") throw fault(path, field, value, "true or false");
  return value;
}

function blocks(json: Json, path: string): readonly number[] {
  const list = listOf(json.layers_to_transform);
  if (list.every((entry) => typeof entry === "number")) return list;
  throw fault(path, "layers_to_transform", json.layers_to_transform, "a number, or a list of them");
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
): CompleteLora {
  checkSupported(json, path, modelType);
  const targets = names(json, "target_modules", path, true);
  if (targets === null) {
    throw fault(path, "target_modules", json.target_modules, "a list of names, or a string");
  }
  const start = json.init_lora_weights;
  const isKept = start === "gaussian" || REPEATED_STARTS.includes(start);
  const options = {
    r: number(json, "r", 8, path),
    // PEFT's own default, where addLora's is 16.
    alpha: number(json, "lora_alpha", 8, path),
    dropout: number(json, "lora_dropout", 0, path),
    targetModules: targets,
    excludeModules: names(json, "exclude_modules", path, true) ?? [],
    layersToTransform: blocks(json, path),
    layersPattern: listOf(names(json, "layers_pattern", path, true)),
    modulesToSave: listOf(names(json, "modules_to_save", path, false)),
    useRslora: flag(json, "use_rslora", path),
    useDora: flag(json, "use_dora", path),
    init: (isKept ? start : true) as CompleteLora["init"],
    rankPattern: patterns(json, "rank_pattern", path),
    alphaPattern: patterns(json, "alpha_pattern", path),
  };
  try {
    return completeLora(options);
  } catch (error) {
    const Same = error instanceof TypeError ? TypeError : RangeError;
    throw new Same(
      `Cannot read the adapter's configuration "${path}": ${(error as Error).message}`,
      { cause: error },
    );
  }
}

/** A list as PEFT writes it: null where it is empty. */
function orNull<T>(list: T | readonly T[]): T | readonly T[] | null {
  return Array.isArray(list) && list.length === 0 ? null : list;
}

/** The adapter_config.json of an adapter, as `options` describe it: every key that PEFT writes, in PEFT's order. */
export function adapterConfigJson(
  lora: Lora,
  options: CompleteLora,
  baseModel: string | null,
): Json {
  const { r, alpha, dropout, targetModules, rankPattern, alphaPattern, ...rest } = options;
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
    exclude_modules: orNull(rest.excludeModules),
    fan_in_fan_out: TRANSPOSED.includes(lora.model.config.modelType),
    inference_mode: true,
    init_lora_weights: rest.init,
    kasa_config: null,
    layer_replication: null,
    layers_pattern: orNull(rest.layersPattern),
    layers_to_transform: orNull(rest.layersToTransform),
    loftq_config: {},
    lora_alpha: alpha,
    lora_bias: false,
    lora_dropout: dropout,
    lora_ga_config: null,
    megatron_config: null,
    megatron_core: "megatron.core",
    modules_to_save: orNull(rest.modulesToSave),
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
    use_dora: rest.useDora,
    use_qalora: false,
    use_rslora: rest.useRslora,
    velora_config: null,
  };
}
