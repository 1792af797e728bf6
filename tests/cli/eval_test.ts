import { fileURLToPath } from "node:url";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { trainBpe } from "../../train/data/bpe.ts";
import { tokenizeExamples } from "../../train/data/dataset.ts";
import { evaluateAccuracy } from "../../train/eval/accuracy.ts";
import { evaluatePerplexity } from "../../train/eval/perplexity.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";

const TEXT = "a cat, a bat\nand a hat: that is all there is. ".repeat(6);

const EXAMPLES = ["one", "two", "three"].map((word, i) => ({
  prompt: `${word} =`,
  answer: ` ${i + 1}`,
}));

const json = trainBpe([TEXT], { vocabSize: 280, specialTokens: ["<end>"], bosToken: "<end>" });
const config = { "bos_token": "<end>", "eos_token": "<end>" };
const tokenizer = new Tokenizer(json, { config });
const model = randomModel(device, {
  model_type: "llama",
  vocab_size: 280,
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  max_position_embeddings: 64,
}, { seed: 1 });
model.tokenizer = tokenizer;

/** A folder with a model, a text and two data sets. */
async function withFiles(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await saveModel(model, `${folder}/model`);
    await Deno.writeTextFile(`${folder}/text.txt`, TEXT);
    const lines = EXAMPLES.map((row) => JSON.stringify(row));
    await Deno.writeTextFile(`${folder}/set.jsonl`, lines.join("\n"));
    await Deno.writeTextFile(`${folder}/other.jsonl`, '{"question":"one =","reply":" 1"}\n');
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("nibble eval --text --json prints nll, tokens and perplexity, and nothing else", () =>
  withFiles(async (folder) => {
    const flags = ["--model", `${folder}/model`, "--text", `${folder}/text.txt`];
    const { code, stdout } = await nibble("eval", ...flags, "--window", "32", "--json");
    assertEquals(code, 0);
    const found = JSON.parse(stdout);
    assertEquals(found, await evaluatePerplexity(model, tokenizer.encode(TEXT), { window: 32 }));
    assertEquals(Object.keys(found), ["nll", "tokens", "perplexity"]);

    const quantize = ["--quantize", "nf4", "--double-quant", "--limit", "40"];
    const plain = await nibble("eval", ...flags, ...quantize);
    assertEquals([plain.code, plain.stderr], [0, ""]);
    // 40 tokens in one window, the first of them not predicted.
    assertMatch(
      plain.stdout,
      /^Perplexity \d+\.\d\d: 5\.\d{4} nats per token over 39 tokens, in windows of 64$/m,
    );
  }));

Deno.test("nibble eval --data counts exact answers", () =>
  withFiles(async (folder) => {
    const flags = ["--model", `${folder}/model`];
    const data = ["--data", `${folder}/set.jsonl`];
    const { code, stdout } = await nibble("eval", ...flags, ...data, "--json");
    assertEquals(code, 0);
    const { accuracy, correct, total, nll, tokens } = await evaluateAccuracy(
      model,
      tokenizeExamples(tokenizer, EXAMPLES),
    );
    assertEquals(JSON.parse(stdout), { accuracy, correct, total, nll, tokens });
    assertEquals(total, 3);

    const fields = ["--prompt-field", "question", "--answer-field", "reply"];
    const other = await nibble("eval", ...flags, "--data", `${folder}/other.jsonl`, ...fields);
    assertEquals([other.code, other.stderr], [0, ""]);
    assertMatch(other.stdout, /^Accuracy 0\.0 %: 0 of 1 answers are exact\./m);
  }));

Deno.test("nibble eval says what is wrong with its options and files", () =>
  withFiles(async (folder) => {
    const own = ["--model", `${folder}/model`];
    const text = ["--text", `${folder}/text.txt`];
    const data = ["--data", `${folder}/set.jsonl`];
    const cases: [number, RegExp, ...string[]][] = [
      [2, /found neither of --text and --data, wanted one of them/, ...own],
      [2, /found both of --text and --data, wanted one of them/, ...own, ...text, ...data],
      [2, /leave it out with --data/, ...own, ...data, "--window", "8"],
      [2, /leave them out with --text/, ...own, ...text, "--answer-field", "a"],
      [1, /windows of 65 tokens: wanted a whole.*2 to 64/, ...own, ...text, "--window", "65"],
      [1, /Cannot read the text ".*missing"/, ...own, "--text", `${folder}/missing`],
      [1, /wanted "prompt"/, ...own, "--data", `${folder}/other.jsonl`],
    ];
    for (const [wanted, pattern, ...args] of cases) {
      const { code, stdout, stderr } = await nibble("eval", ...args);
      assertEquals([code, stdout], [wanted, ""], stderr);
      assertMatch(stderr, pattern);
      assert(/^error: Cannot .*\n( +because: .*\n)?$/.test(stderr), stderr);
    }
  }));

Deno.test("nibble eval reads the embedded model in windows of its context, unless it is told", async () => {
  const base = fileURLToPath(new URL("../../assets/base", import.meta.url));
  const heldout = fileURLToPath(new URL("../../assets/wordnet/heldout.txt", import.meta.url));
  const args = ["eval", "--model", base, "--text", heldout, "--limit", "600"];
  const own = await nibble(...args);
  assertMatch(own.stdout, /over 597 tokens, in windows of 256$/m);
  const told = await nibble(...args, "--window", "200");
  assertMatch(told.stdout, /over 597 tokens, in windows of 200$/m);
  const beyond = await nibble(...args, "--window", "512");
  assertMatch(
    beyond.stderr,
    /windows of 512 tokens: wanted a whole number from 2 to 256, the model/,
  );
  const help = (await nibble("eval", "--help")).stdout.replace(/\s+/g, " ");
  assertMatch(
    help,
    /--window <N> tokens of a window \(with --text\); 1024, or the model's context/,
  );
});
