/**
 * Which files of a model on the Hugging Face hub nibble takes: safetensors, by that name or as steps of weights, the configuration and
 * the tokenizer, and nothing that could be code.
 *
 * @module
 */
import { readJsonOf, SHARDS_JSON } from "./input.ts";
import { STEPS_FILE } from "./weight_steps.ts";

const MODEL = "model.safetensors";
const INDEX = "model.safetensors.index.json";
const ADAPTER = "adapter_model.safetensors";
const CONFIGS = ["config.json", "adapter_config.json"];

const SMALL = [
  ...CONFIGS,
  "generation_config.json",
  "tokenizer.json",
  "tokenizer_config.json",
  "special_tokens_map.json",
  "chat_template.jinja",
];

/** The files of one download. Weights are last: where they are, the rest is too. */
export interface HubChoice {
  /** Names of files, in the order to fetch them in. */
  readonly files: readonly string[];
  /** The file that lists the shards, if the weights are in shards. */
  readonly index: string | null;
}

/** Whether a path could lead out of its folder, on any system. */
function isHostile(path: string): boolean {
  return /[\\\p{Cc}]|^[A-Za-z]:/u.test(path) ||
    path.split("/").some((part) => part === "" || part === "." || part === "..");
}

/**
 * Picks the files to take.
 *
 * @param names every file of the model
 * @param weights whether weights are wanted
 * @throws {RangeError} if a name is hostile, or what nibble needs is not there
 */
export function chooseFiles(names: readonly string[], weights: boolean): HubChoice {
  const hostile = names.find(isHostile);
  if (hostile !== undefined) {
    throw new RangeError(
      `found the file name ${
        JSON.stringify(hostile)
      } in its list, wanted paths inside the model; do not trust this model`,
    );
  }
  const has = new Set(names);
  const small = SMALL.filter((name) => has.has(name));
  const some = names.length === 0
    ? "no files"
    : names.slice(0, 6).join(", ") + (names.length > 6 ? " …" : "");
  if (!CONFIGS.some((name) => has.has(name))) {
    throw new RangeError(`found ${some}, wanted a model with config.json; choose another model`);
  }
  if (!weights) return { files: small, index: null };
  const model = [MODEL, INDEX].find((name) => has.has(name));
  const large = [STEPS_FILE, model, ADAPTER].filter((name) =>
    name !== undefined && has.has(name)
  ) as string[];
  const isWhole = has.has("config.json") && model !== undefined ||
    has.has("adapter_config.json") && has.has(ADAPTER);
  if (!isWhole) {
    throw new RangeError(
      `found ${some}, wanted weights in safetensors (${MODEL}, or ${INDEX} and its shards); choose a model that has them`,
    );
  }
  return { files: [...small, ...large], index: model === INDEX ? INDEX : null };
}

/**
 * The shards that an index names.
 *
 * @param path the index
 * @param names every file of the model, if that is known
 * @throws {RangeError} if a shard is not among the files, or its name leads out of the folder
 */
export async function shardsIn(path: string, names?: readonly string[]): Promise<string[]> {
  const { weight_map: map } = await readJsonOf(path, "the list of shards", SHARDS_JSON);
  const shards = [...new Set<unknown>(Object.values(Object(map)))];
  const bad = shards.find((shard) =>
    typeof shard !== "string" || /\//.test(shard) || isHostile(shard) ||
    names && !names.includes(shard)
  );
  if (bad !== undefined || shards.length === 0) {
    throw new RangeError(
      `found ${
        shards.length === 0 ? "no shard" : `the shard ${JSON.stringify(bad)}`
      } in ${INDEX}, wanted names of files ` +
        "of the model; choose another model or revision",
    );
  }
  return (shards as string[]).sort();
}

/** What a folder lacks of a model, or null if it is whole. */
export async function lackOf(folder: string, weights: boolean): Promise<string | null> {
  try {
    const names: string[] = [];
    for await (const { name } of Deno.readDir(folder)) {
      // A link whose blob is gone is no file.
      if ((await Deno.stat(`${folder}/${name}`).catch(() => null))?.isFile) names.push(name);
    }
    const { index } = chooseFiles(names, weights);
    if (index) await shardsIn(`${folder}/${index}`, names);
    return null;
  } catch (error) {
    return error instanceof Deno.errors.NotFound ? "no such folder" : (error as Error).message;
  }
}
