/**
 * What `nibble train` begins with: a model, an adapter, and data.
 *
 * @module
 */
import type { Device } from "../core/device.ts";
import { addLora, type Lora } from "../train/adapters/lora.ts";
import { loadAdapter } from "../train/adapters/peft.ts";
import type { Dataset } from "../train/data/batches.ts";
import { readJsonl, readText, tokenStream } from "../train/data/dataset.ts";
import { chunk } from "../train/data/packing.ts";
import { defaultWindow } from "../train/data/windows.ts";
import { readConfig } from "../train/files/config.ts";
import { loadTokenizer } from "../train/files/tokenizer.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { loadModel, randomModel } from "../train/models/load.ts";
import { loadOptionsOf, modelFolder, tokenizerOf } from "./model_options.ts";
import type { Say } from "./print.ts";
import type { TrainChoice } from "./train.ts";
import { targetsOf } from "./train_options.ts";

/** A model to train. */
export interface Prepared {
  readonly model: LanguageModel;
  /** Null where all of the model is trained. */
  readonly lora: Lora | null;
  /** What the adapter shall call its base: a folder, or a name of the hub. */
  readonly base: string;
}

/** The model, ready to be trained, and the adapter unless all of it is trained. */
export async function prepareModel(device: Device, options: TrainChoice): Promise<Prepared> {
  const { full, init, seed } = options;
  const folder = await modelFolder(options.model, !init);
  // PEFT looks for a revision elsewhere than in the name.
  const base = folder === options.model ? folder : options.model.replace(/@.*$/s, "");
  if (init) {
    const { json } = await readConfig(folder);
    const model = randomModel(device, json, { seed, trainable: "all" });
    model.tokenizer = await loadTokenizer(folder);
    return { model, lora: null, base };
  }
  const model = await loadModel(device, folder, {
    ...loadOptionsOf(options),
    trainable: full ? "all" : "none",
  });
  if (full) return { model, lora: null, base };
  const { adapter, r, alpha, dropout, targetModules, rslora: useRslora, dora: useDora } = options;
  const lora = adapter === undefined
    ? addLora(model, {
      r,
      alpha,
      dropout,
      targetModules: targetsOf(targetModules),
      useRslora,
      useDora,
      seed,
    })
    : await loadAdapter(model, await modelFolder(adapter));
  return { model, lora, base };
}

/** The sequences that the model learns: of examples the answers, or a text in rows. */
export async function readData(
  model: LanguageModel,
  options: TrainChoice,
  say: Say,
): Promise<Dataset> {
  const { data, text, promptField, answerField, limit, length } = options;
  if (data !== undefined) {
    const onUnread = (fields: readonly string[]) =>
      say(`Not read of ${data}: ${fields.map((field) => JSON.stringify(field)).join(", ")}`);
    const examples = await readJsonl(data, { promptField, answerField, chat: true, onUnread });
    return limit === undefined ? examples : examples.slice(0, limit);
  }
  const tokenizer = tokenizerOf(model, `read "${text}" for "${options.model}"`);
  const documents = (await readText(text!)).text.split(/\r?\n(?:[ \t]*\r?\n)+/).filter(Boolean);
  const stream = tokenStream(tokenizer, documents.slice(0, limit));
  return chunk(stream, length ?? defaultWindow(model.config, "train"));
}
