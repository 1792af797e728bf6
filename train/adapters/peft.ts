/**
 * Adapter folders as PEFT writes and reads them: adapter_config.json and adapter_model.safetensors.
 *
 * @module
 */
import { sameShape, showShape } from "../../core/shape.ts";
import { readJsonOf, SMALL_JSON } from "../files/input.ts";
import { writeFolder, writeWhole } from "../files/output.ts";
import { SafetensorsFile, type TensorData, writeSafetensors } from "../files/safetensors.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { addDecomposed, Lora } from "./lora.ts";
import type { CompleteLora } from "./lora_options.ts";
import { adapterConfigJson, parseAdapterConfig } from "./peft_config.ts";
import { makePlain, plainOptions } from "./plain_lora.ts";
import { tensorsToSave } from "./saved_modules.ts";
import { peftName, rankAndScaling } from "./start.ts";
import { matchTargets, selectTargets } from "./targets.ts";

const CONFIG = "adapter_config.json";
const WEIGHTS = "adapter_model.safetensors";

/** How an adapter is saved. */
export interface SaveAdapterOptions {
  /** The model that it belongs to, a hub name or a folder, for PEFT's `AutoPeftModelForCausalLM`. */
  readonly baseModel?: string;
  /**
   * Write an adapter that began with a part of the model's weights (`init` "pissa" or "olora") as plain LoRA of twice the rank, as
   * PEFT does with `path_initial_model_for_weight_conversion`: it needs the model alone, in any precision. By default it is so;
   * `false` keeps the rank, and whoever loads the folder takes the weights apart again, PEFT in 32 bits.
   */
  readonly toPlainLora?: boolean;
}

/**
 * Writes an adapter folder that PEFT's `PeftModel.from_pretrained` and `loadAdapter` read. It appears whole or not at all.
 *
 * @param lora the adapter
 * @param folder where to; these two files in it are replaced, others are kept
 * @param options the base model's name, and the form
 * @throws {TypeError} if the adapter was removed, or merged for good
 * @throws {RangeError} if a weight is NaN or infinite
 * @throws {Error} if the folder cannot be written
 *
 * @example
 * ```ts
 * import { addLora, openDevice, randomModel, saveAdapter } from "@nibble/nibble";
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
 * const lora = addLora(model, { r: 4, alpha: 8 });
 * await saveAdapter(lora, `${await Deno.makeTempDir()}/my-adapter`, { baseModel: "me/tiny" });
 * ```
 */
export async function saveAdapter(
  lora: Lora,
  folder: string,
  { baseModel, toPlainLora = true }: SaveAdapterOptions = {},
): Promise<void> {
  if (!lora.model.adapters.has(lora)) {
    throw new TypeError(
      "Cannot save the adapter: found it removed, or merged for good; save it before that",
    );
  }
  const read = [...lora.parameters()].map(async ([name, own]): Promise<[string, TensorData]> => {
    const data = await own.read() as Float32Array;
    if (!data.every(Number.isFinite)) {
      throw new RangeError(
        `Cannot save the adapter: found NaN or infinity in "${name}", wanted numbers; train again with a lower learning rate`,
      );
    }
    return [name, { dtype: "F32", shape: own.shape, data }];
  });
  const tensors = new Map(await Promise.all(read));
  const isPlain = lora.parts.size === 0 || toPlainLora;
  if (isPlain) makePlain(tensors, lora.parts);
  const options = lora.parts.size > 0 && isPlain ? plainOptions(lora.options) : lora.options;
  const config = adapterConfigJson(lora, options, baseModel ?? null);
  await writeFolder(folder, async (draft) => {
    await writeWhole(`${draft}/${CONFIG}`, `${JSON.stringify(config, null, 2)}\n`);
    await writeSafetensors(`${draft}/${WEIGHTS}`, tensors);
  });
}

/** The tensors that the adapter must have, and the layers that they belong to. */
function wantedTensors(
  model: LanguageModel,
  paths: readonly string[],
  options: CompleteLora,
): Map<string, readonly number[]> {
  const layers = new Map(model.linearLayers());
  const wanted = new Map<string, readonly number[]>();
  for (const path of paths) {
    const [outFeatures, inFeatures] = layers.get(path)!.shape;
    const { r } = rankAndScaling(path, options);
    wanted.set(peftName(path, "lora_A.weight"), [r, inFeatures]);
    wanted.set(peftName(path, "lora_B.weight"), [outFeatures, r]);
    if (options.useDora) wanted.set(peftName(path, "lora_magnitude_vector"), [outFeatures]);
  }
  for (const [name, { shape }] of tensorsToSave(model, options.modulesToSave)) {
    wanted.set(peftName("", name), shape);
  }
  return wanted;
}

/** What of a layer is wanted, and the tensors of whole modules. */
function calledFor(wanted: ReadonlyMap<string, readonly number[]>): string {
  const names = [...wanted.keys()].map((name) => /lora_\w+(?:\.weight)?$/.exec(name)?.[0] ?? name);
  return [...new Set(names)].join(" and ");
}

/** Checks that the file has the wanted tensors, in the wanted shapes, and no others. */
function checkTensors(
  file: SafetensorsFile,
  wanted: ReadonlyMap<string, readonly number[]>,
  folder: string,
): void {
  for (const [name, { shape }] of file.entries) {
    const fitting = wanted.get(name);
    if (!fitting) {
      throw new RangeError(
        `Cannot load the adapter in "${folder}": found "${name}" ${showShape(shape)}, wanted only ${
          calledFor(wanted)
        } of the model's layers that target_modules names; is it for another model?`,
      );
    }
    if (sameShape(shape, fitting)) continue;
    throw new RangeError(
      `Cannot load the adapter in "${folder}": found "${name}" with shape ${
        showShape(shape)
      }, wanted ${
        showShape(fitting)
      }; is it for another model, or of another rank than ${CONFIG} says?`,
    );
  }
  for (const [name, shape] of wanted) {
    if (file.entries.has(name)) continue;
    throw new RangeError(
      `Cannot load the adapter in "${folder}": found no "${name}", wanted it with shape ${
        showShape(shape)
      }, as ${CONFIG} calls for it; save the adapter again`,
    );
  }
}

/**
 * Adds the LoRA in a folder that PEFT or `saveAdapter` wrote to a model. Its numbers may be F32, F16 or BF16; in memory they are
 * f32. What PEFT has and nibble has not (trained biases, layer replication, …) is an error, never ignored. An adapter that began
 * with a part of the model's weights (`init_lora_weights` "pissa" or "olora") and was not converted needs them taken apart again,
 * in PEFT as here: see `addLora` for what that costs.
 *
 * @param model the model that it was trained on
 * @param folder the path of the folder
 * @returns the adapter, ready to be used, merged or trained on
 * @throws {Error} if a file is missing
 * @throws {TypeError} if the adapter is of a kind that nibble does not have, or a layer has an adapter already
 * @throws {RangeError} if its tensors do not fit the model
 *
 * @example
 * ```ts
 * import { addLora, loadAdapter, openDevice, randomModel, saveAdapter } from "@nibble/nibble";
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
 * const lora = addLora(model, { r: 4, targetModules: ["q_proj", "v_proj"] });
 * const folder = `${await Deno.makeTempDir()}/my-adapter`;
 * await saveAdapter(lora, folder);
 * lora.remove();
 * const again = await loadAdapter(model, folder);
 * console.log(again.options.r, again.branches.size); // 4 4
 * ```
 */
export async function loadAdapter(model: LanguageModel, folder: string): Promise<Lora> {
  const path = `${folder}/${CONFIG}`;
  const json = await readJsonOf(path, "the adapter's configuration", SMALL_JSON);
  const options = parseAdapterConfig(json, path, model.config.modelType);
  const all = [...model.linearLayers()].map(([own]) => own);
  let paths = selectTargets(all, options.targetModules, options);
  // PEFT passes over names that mean no layer; only where none means any does the stricter rule give its error.
  if (paths.length === 0) paths = matchTargets(all, options.targetModules, options);
  const wanted = wantedTensors(model, paths, options);
  using file = await SafetensorsFile.open(`${folder}/${WEIGHTS}`);
  checkTensors(file, wanted, folder);
  const read = [...wanted.keys()].map(async (name) => [name, await file.readFloats(name)] as const);
  const weights = new Map(await Promise.all(read));
  const { init } = options;
  // PEFT, too, takes the model's weights apart again, and then puts the trained A and B in the place of what was taken.
  if (init === "pissa" || init === "olora") {
    return await addDecomposed(model, options, paths, weights);
  }
  return new Lora(model, options, paths, { weights });
}
