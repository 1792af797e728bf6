import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";

const folder = await Deno.makeTempDir();
const model = `${folder}/model`;

const tiny = randomModel(device, {
  model_type: "llama",
  vocab_size: 257,
  hidden_size: 16,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 48,
  initializer_range: 0.5,
}, { seed: 1 });
tiny.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
  config: { "eos_token": "<end>" },
});
await saveModel(tiny, model);
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

/** A run that fails says one thing, and no line of a stack trace. */
async function assertFails(args: string[], code: number, pattern: RegExp): Promise<void> {
  const outcome = await nibble("generate", ...args);
  assertEquals([outcome.code, outcome.stdout], [code, ""], outcome.stderr);
  assertMatch(outcome.stderr, pattern);
  assert(!/^ +at /m.test(outcome.stderr), outcome.stderr);
  assertEquals(outcome.stderr.match(/error:/g)?.length, 1);
}

Deno.test("nibble generate prints each answer after its prompt", async () => {
  const args = ["generate", "a cat", "a bat", "--model", model, "--max-new-tokens", "8"];
  const { code, stdout, stderr } = await nibble(...args);
  assertEquals(code, 0, stderr);
  assert(stdout.startsWith("a cat"), stdout);
  assert(stdout.includes("\n\na bat"), stdout);
  assert(!/[^\P{Cc}\n\t]/u.test(stdout), "control characters reach the terminal");
  assertMatch(stderr, /^\d+ tokens in .* s, .* tokens\/s\n$/);
});

Deno.test("nibble generate --json gives the answers to a file of prompts", async () => {
  await Deno.writeTextFile(`${folder}/lines.txt`, "a cat\n\nb\n");
  await Deno.writeTextFile(`${folder}/set.jsonl`, '{"question": "a cat"}\n{"question": "b"}\n');
  const given = [
    ["a cat", "b"],
    ["a cat", "--prompts", `${folder}/set.jsonl`, "--prompt-field", "question"],
    ["--prompts", `${folder}/lines.txt`, "--batch-size", "1"],
  ];
  const sampling = ["--temperature", "0.9", "--top-k", "40", "--top-p", "0.95", "--seed", "5"];
  const found = [];
  for (const prompts of given) {
    const args = ["--model", model, "--max-new-tokens", "6", "--json", ...sampling];
    const { code, stdout, stderr } = await nibble("generate", ...prompts, ...args);
    assertEquals(code, 0, stderr);
    found.push(JSON.parse(stdout));
  }
  const [{ results, tokens, tokensPerSecond, seed }, second, third] = found;
  assertEquals(results.map(({ prompt }: { prompt: string }) => prompt), ["a cat", "b"]);
  assert(results.every(({ text }: { text: unknown }) => typeof text === "string"));
  assert(tokens > 0 && tokens <= 12 && tokensPerSecond > 0);
  assertEquals(seed, 5);
  assertEquals(second.results.slice(1).map(({ prompt }: { prompt: string }) => prompt), [
    "a cat",
    "b",
  ]);
  assertEquals(second.results[0], results[0]);
  assertEquals(third.results, results);
});

Deno.test("nibble generate says what is wrong, once", async () => {
  await assertFails(["a", "--model", `${folder}/missing`], 1, /missing.*there is no such file/);
  const long = "word ".repeat(20);
  await assertFails(
    [long, "--model", model],
    1,
    /^error: Cannot generate text: the prompt has 100 tokens, but the model's context holds 48; shorten it\n$/,
  );
  await assertFails(["", "--model", model], 1, /the prompt has 0 tokens/);
  await assertFails(["--model", model], 2, /there is nothing to go on from; wanted a PROMPT/);
  await assertFails(["a", "--model", model, "--top-p", "0"], 2, /--top-p: found "0", wanted/);
  await Deno.writeTextFile(`${folder}/bad.jsonl`, '{"question": "b"}\n');
  await assertFails(
    ["--prompts", `${folder}/bad.jsonl`, "--model", model],
    1,
    /Cannot read prompt 1 of ".*": it has the fields "question", wanted a text in "prompt"/,
  );
});
