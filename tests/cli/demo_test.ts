/** The real demo, once. It is the longest test: about 75 seconds on two idle cores without a GPU. */
import { fileURLToPath } from "node:url";
import { readJsonl } from "../../train/data/dataset.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

const TEST_SET = fileURLToPath(new URL("../../assets/wordnet/test.jsonl", import.meta.url));

/** Whether a value is a finite number above 0. */
function isPositive(value: unknown): boolean {
  return typeof value === "number" && Number.isFinite(value) && value > 0;
}

function assertRange(what: string, value: number, low: number, high: number): void {
  assert(value >= low && value <= high, `${what} is ${value}, wanted ${low} to ${high}`);
}

// deno-lint-ignore no-explicit-any
function assertResult(found: any): void {
  assertEquals(Object.keys(found), [
    ...["adapter", "seconds", "perplexity", "bytes", "accuracy", "tokensPerSecond", "peakBytes"],
  ]);
  const { adapter, seconds, perplexity, bytes, accuracy, tokensPerSecond, peakBytes } = found;
  assert(typeof adapter === "string" && adapter !== "");
  assert([seconds, tokensPerSecond, peakBytes].every(isPositive), JSON.stringify(found));

  assertEquals(Object.keys(perplexity), ["f32", "nf4", "nf4dq"]);
  assertRange("f32's perplexity", perplexity.f32, 10, 23);
  // Four bits cost something, and quantized scales hardly anything more.
  assertRange("NF4's perplexity", perplexity.nf4 / perplexity.f32, 1.0001, 1.2);
  assertRange("quantized scales' perplexity", perplexity.nf4dq / perplexity.nf4, 0.99, 1.01);

  assertEquals(Object.keys(bytes), ["f32", "nf4", "nf4dq"]);
  assert(bytes.nf4dq < bytes.nf4 && bytes.nf4 < 0.6 * bytes.f32, JSON.stringify(bytes));
  assert(peakBytes > bytes.f32, `at most ${peakBytes} bytes with ${bytes.f32} bytes of weights`);

  assertEquals(Object.keys(accuracy), ["before", "after", "majority", "naiveBayes"]);
  const { before, after, majority, naiveBayes } = accuracy;
  assertRange("accuracy before", before, 0, 0.05);
  assertRange("accuracy after", after, 0.76, 1);
  assertRange("the majority's accuracy", majority, 0.2, 0.3);
  assertRange("naive Bayes's accuracy", naiveBayes, majority, after);
}

Deno.test("nibble demo quantizes, fine-tunes, evaluates, and leaves an adapter that works", async () => {
  const folder = await Deno.makeTempDir({ prefix: "nibble-demo-" });
  try {
    const [out, json] = [`${folder}/my adapter`, `${folder}/demo.json`];
    const { code, stdout, stderr } = await nibble("demo", "--json", json, "--out", out);
    assertEquals([code, stderr], [0, ""], stdout);
    const found = JSON.parse(await Deno.readTextFile(json));
    assertResult(found);

    assert(!/[^\P{Cc}\n]/u.test(stdout), "control characters in a pipe");
    assert(stdout.startsWith(`Adapter: ${found.adapter} (`), stdout);
    const percent = (share: number) => `${(100 * share).toFixed(1)} %`.replace(".", "\\.");
    const lines = [
      `^f32 +[\\d.]+ MB +${found.perplexity.f32.toFixed(2)}$`,
      `^NF4 +[\\d.]+ MB +${found.perplexity.nf4.toFixed(2)}$`,
      `^NF4, double quantization +[\\d.]+ MB +${found.perplexity.nf4dq.toFixed(2)}$`,
      "^LoRA with r = 8 and alpha = 16 on \\d+ linear layers: [\\d,]+ of [\\d,]+ parameters are trained \\(",
      "^Fine-tuning +\\d+ % \\d+/\\d+ · loss [\\d.]+ · .* tokens/s · .* left$",
      "^Fine-tuning +100 %",
      `^base model +${percent(found.accuracy.before)}$`,
      `^majority class +${percent(found.accuracy.majority)}$`,
      `^naive Bayes on the same examples +${percent(found.accuracy.naiveBayes)}$`,
      `^fine-tuned model +${percent(found.accuracy.after)}$`,
      "^definition +category +before +after$",
    ];
    for (const line of lines) assertMatch(stdout, new RegExp(line, "m"));

    assertEquals(Array.from(Deno.readDirSync(folder), ({ name }) => name).sort(), [
      "demo.json",
      "my adapter",
    ]);
    const command = /^ {2}deno task nibble (generate [^]*?) \$'.*\\nCategory:'\n$/m.exec(stdout);
    assert(command, `no command in\n${stdout}`);
    const words = command[1].replace("\\\n", " ").match(/'[^']*'|[^\s']+/g)!;
    const args = words.map((word) => word.replaceAll("'", ""));
    assertEquals(args[args.indexOf("--adapter") + 1], out);
    const examples = await readJsonl(TEST_SET);
    const answer = await nibble(...args, examples[0].prompt, "--json");
    assertEquals(answer.code, 0, answer.stderr);
    const [{ text }] = JSON.parse(answer.stdout).results;
    const categories = [...new Set(examples.map((example) => example.answer))];
    assert(categories.includes(text), `found ${JSON.stringify(text)}, wanted one of ${categories}`);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
