/** A tiny model with its tokenizer, data and adapter in a temporary folder, and what a failing command may do to it: nothing. */
import type { Json } from "../../train/files/tokenizer.ts";
import { addLora } from "../../train/adapters/lora.ts";
import { saveAdapter } from "../../train/adapters/peft.ts";
import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibbleWith } from "./spawn.ts";

/** The configuration of the tiny model. */
export const TINY: Json = {
  "model_type": "llama",
  "vocab_size": 257,
  "hidden_size": 64,
  "intermediate_size": 64,
  "num_hidden_layers": 1,
  "num_attention_heads": 4,
  "max_position_embeddings": 64,
  "initializer_range": 0.3,
};

/** Rows of a task that is soon learnt. */
export const ROWS: readonly { prompt: string; answer: string }[] = Array.from(
  { length: 12 },
  (_, i) => ({ prompt: `${i} is`, answer: i % 2 === 0 ? " even" : " odd" }),
);

/** Two documents. */
export const TEXT = `${"a cat and a bat. ".repeat(12)}\n\n${"a hat on a mat. ".repeat(12)}\n`;

/** Data rows as JSONL. */
export function jsonl(rows: readonly unknown[]): string {
  return rows.map((row) => `${JSON.stringify(row)}\n`).join("");
}

/** A random model like `TINY`, with a tokenizer of bytes. */
export function tinyModel(changes: Json = {}): LanguageModel {
  const model = randomModel(device, { ...TINY, ...changes }, { seed: 1 });
  model.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
    config: { "eos_token": "<end>" },
  });
  return model;
}

/**
 * A temporary folder, removed when the test file ends, with `model`, `adapter` (r 2 on all its layers), `set.jsonl` and
 * `text.txt`.
 */
export async function tinyFiles(): Promise<string> {
  const folder = await Deno.makeTempDir({ prefix: "nibble-test-" });
  globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));
  const model = tinyModel();
  await saveModel(model, `${folder}/model`);
  await saveAdapter(addLora(model, { r: 2, seed: 3 }), `${folder}/adapter`);
  await Deno.writeTextFile(`${folder}/set.jsonl`, jsonl(ROWS));
  await Deno.writeTextFile(`${folder}/text.txt`, TEXT);
  model.dispose();
  return folder;
}

/** Every file under a folder, with a digest of its bytes. */
export async function digests(folder: string): Promise<Record<string, string>> {
  const found: Record<string, string> = {};
  for (const { name, isDirectory } of Deno.readDirSync(folder)) {
    const path = `${folder}/${name}`;
    if (isDirectory) Object.assign(found, { [path]: "" }, await digests(path));
    else {
      const digest = await crypto.subtle.digest("SHA-256", await Deno.readFile(path));
      found[path] = new Uint8Array(digest).toHex();
    }
  }
  return found;
}

/** How a command fails. */
export interface Failure {
  readonly code: number;
  readonly message: RegExp;
  readonly env?: Record<string, string>;
}

/** A command that fails says one thing, in one line, without a stack, nothing on stdout, and changes no file of `folder`. */
export async function assertFails(
  folder: string,
  args: readonly string[],
  { code, message, env }: Failure,
): Promise<void> {
  const before = await digests(folder);
  const outcome = await nibbleWith(env ?? {}, ...args);
  const what = `nibble ${args.join(" ")}\n${outcome.stdout}${outcome.stderr}`;
  assertEquals([outcome.code, outcome.stdout], [code, ""], what);
  // With --json, progress goes to stderr.
  const said = outcome.stderr.replace(/^[A-Z]\w+.* \d+ % .*\n/gm, "");
  assertMatch(said, message);
  assert(/^error: (Cannot|Unknown) [^\n]*\n$/.test(said), `not one message: ${what}`);
  assert(!/^ +at /m.test(outcome.stderr), `a stack: ${what}`);
  assertEquals(await digests(folder), before, what);
}
