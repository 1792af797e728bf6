import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const tiny = randomModel(device, {
  model_type: "llama",
  vocab_size: 257,
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 4,
  max_position_embeddings: 64,
  initializer_range: 0.3,
}, { seed: 1 });
tiny.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
  config: { "eos_token": "<end>" },
});
await saveModel(tiny, `${folder}/model`);
const lines = Array.from({ length: 20 }, (_, i) => `{"question":"${i} is","reply":" 1"}\n`);
await Deno.writeTextFile(`${folder}/train.jsonl`, lines.slice(0, 14).join(""));
await Deno.writeTextFile(`${folder}/test.jsonl`, lines.slice(14).join(""));
await Deno.writeTextFile(`${folder}/text.txt`, "that is all there is ".repeat(4));

const MODEL = ["--model", `${folder}/model`];
const DATA = ["--data", `${folder}/train.jsonl`, "--test", `${folder}/test.jsonl`];
const FIELDS = ["--prompt-field", "question", "--answer-field", "reply"];
const GRID = ["--ranks", "1,2", "--modules", "q_proj;all", "--seeds", "2"];
const SHORT = ["--steps", "20", "--length", "16", "--learning-rate", "0.05", "--examples", "12"];
const OWN = [...MODEL, ...DATA, ...FIELDS, ...SHORT];

Deno.test("nibble ablate prints a table and advice, writes JSON and CSV, and goes on where it was", async () => {
  const out = `${folder}/out`;
  const args = ["ablate", ...OWN, ...GRID, "--quantize", "nf4", "--double-quant", "--out", out];
  const first = await nibble(...args);
  assertEquals([first.code, first.stderr], [0, ""]);
  assertMatch(first.stdout, /2 seeds of each of 2 ranks on 2 sets of modules; 12 of 14 examples/);
  assertMatch(first.stdout, /^Ablating, step .* loss .* run 1\/8 \(r 1, q_proj, seed 0\)/m);
  assertMatch(first.stdout, /^modules +r +accuracy % +perplexity +trainable +size +time/m);
  assertMatch(first.stdout, /^q_proj +1 +\d+\.\d ± \d+\.\d +[\d.]+ ± [\d.]+ +128 +512 B /m);
  assertMatch(first.stdout, /^all-linear +2 .* 1,792 +7\.17 kB /m);
  // Every test example has the answer of every training example.
  assertEquals(first.stdout.match(/ {2}best/g)?.length, 1);
  assertMatch(first.stdout, /^Best: r \d on .*Smallest within one standard deviation of the best/m);
  const csv = await Deno.readTextFile(`${out}/ablation.csv`);
  assertEquals(csv.trimEnd().split("\n").length, 1 + 8 + 4);

  const again = await nibble(...args, "--seeds", "1", "--json");
  assertEquals([again.code, again.stderr], [0, ""]);
  const found = JSON.parse(again.stdout);
  assertEquals([found.resumed, found.runs.length, found.summary.length], [4, 4, 4]);
  assertEquals(found.examples, { train: 12, test: 6 });
  assertEquals(found.summary[0].accuracy.deviation, null);
  assertEquals(JSON.parse(await Deno.readTextFile(`${out}/ablation.json`)).runs, found.runs);
});

Deno.test("nibble ablate --text measures perplexity on it", async () => {
  const grid = ["--ranks", "1", "--modules", "q_proj", "--seeds", "1"];
  const text = ["--text", `${folder}/text.txt`, "--window", "32"];
  const { code, stdout, stderr } = await nibble(
    ...["ablate", ...OWN, ...grid, ...text, "--steps", "1", "--out", `${folder}/text`],
  );
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /perplexity on the held-out text; time/);
  assertMatch(stdout, /^q_proj +1 +0\.0 ± – +[\d.]+ ± – /m);
  assertMatch(stdout, /^No run answers any example exactly/m);
  assert(!stdout.includes("best,"), stdout);
});

Deno.test("nibble ablate says what is wrong in one line, and leaves no folder", async () => {
  const out = `${folder}/wrong`;
  await Deno.writeTextFile(`${folder}/file`, "");
  const missing = `${folder}/missing`;
  const cases: [number, RegExp, ...string[]][] = [
    [2, /--ranks: found "1,0", wanted whole numbers ≥ 1 separated by commas/, "--ranks", "1,0"],
    [2, /--seeds: found "0"/, "--seeds", "0"],
    [1, /no linear layer "q_prj", wanted q_proj, k_proj.*mean "q_proj"/, "--modules", "q_prj"],
    [1, /Cannot read the data set ".*missing"/, "--data", missing],
    [1, /wanted "prompt"/, "--prompt-field", "prompt"],
    [1, /missing/, "--model", missing],
    [1, /Cannot keep runs in ".*file"/, "--out", `${folder}/file`],
    [2, /--window cuts the text of --text/, "--window", "16"],
    [2, /Unknown flag --seed: did you mean --seeds/, "--seed", "1"],
  ];
  for (const [wanted, pattern, ...args] of cases) {
    const outcome = await nibble("ablate", ...OWN, "--out", out, ...args);
    assertEquals(outcome.code, wanted, outcome.stderr);
    assertMatch(outcome.stderr, pattern);
    assert(
      /^error: Cannot .*\n( +because: .*\n)?$|^error: Unknown .*\n$/.test(outcome.stderr),
      outcome.stderr,
    );
  }
  const half = await nibble("ablate", ...MODEL, "--data", `${folder}/train.jsonl`);
  assertEquals(half.code, 2);
  assertMatch(half.stderr, /found only one of --data and --test, wanted both/);
  const there = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name);
  assert(!there.includes("wrong"), there.join());
});

Deno.test("nibble ablate takes the embedded model without double quantization, or plain, if told", async () => {
  const short = ["--examples", "4", "--test-examples", "2", "--steps", "1", "--ranks", "1"];
  const common = async (...args: string[]) => {
    const grid = ["--modules", "q_proj", "--seeds", "1", "--out", `${folder}/embedded`, "--json"];
    const { code, stdout, stderr } = await nibble("ablate", ...short, ...grid, ...args);
    assertEquals(code, 0, stderr);
    const { quantize, doubleQuant } = JSON.parse(stdout).common;
    return [quantize, doubleQuant];
  };
  assertEquals(await common(), ["nf4", true]);
  assertEquals(await common("--no-double-quant"), ["nf4", false]);
  assertEquals(await common("--dequantize"), ["none", false]);
});
