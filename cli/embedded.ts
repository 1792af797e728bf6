/**
 * The base model and the task that come with nibble.
 *
 * @module
 */
import { fileURLToPath } from "node:url";
import { Random } from "../core/random.ts";
import type { Example } from "../train/data/dataset.ts";

/** Paths of what is embedded. */
export interface Embedded {
  /** The base model's folder. */
  readonly model: string;
  /** JSONL of the task's training examples, sorted by class. */
  readonly train: string;
  /** JSONL of its test examples, sorted by class. */
  readonly test: string;
  /** Text that the base model has not seen. */
  readonly heldout: string;
}

const FILES = [
  ...["config.json", "model.safetensors", "tokenizer.json", "tokenizer_config.json"]
    .map((name) => `base/${name}`),
  ...["train.jsonl", "test.jsonl", "heldout.txt"].map((name) => `wordnet/${name}`),
];

function pathsIn(folder: string): Embedded {
  return {
    model: `${folder}/base`,
    train: `${folder}/wordnet/train.jsonl`,
    test: `${folder}/wordnet/test.jsonl`,
    heldout: `${folder}/wordnet/heldout.txt`,
  };
}

async function download(from: URL, to: string): Promise<void> {
  const response = await fetch(from);
  if (!response.ok) {
    throw new Error(`Cannot download ${from}: the server answered ${response.status}; try again`);
  }
  await Deno.writeFile(to, await response.bytes());
}

/** Where the embedded files are. When nibble runs from a registry they are downloaded to a temporary folder first. */
export async function embedded(): Promise<Embedded> {
  const assets = new URL("../assets/", import.meta.url);
  if (assets.protocol === "file:") return pathsIn(fileURLToPath(assets).replace(/[/\\]$/, ""));
  const folder = await Deno.makeTempDir({ prefix: "nibble-assets-" });
  for (const name of ["base", "wordnet"]) await Deno.mkdir(`${folder}/${name}`);
  await Promise.all(FILES.map((name) => download(new URL(name, assets), `${folder}/${name}`)));
  return pathsIn(folder);
}

/** So many examples, chosen at random: the files are sorted. A larger choice begins with the smaller one. */
export function choose(
  examples: readonly Example[],
  most: number,
  seed: number,
  stream: number,
): Example[] {
  const order = new Random(seed, stream).permutation(examples.length).subarray(0, most);
  return Array.from(order, (index) => examples[index]);
}
