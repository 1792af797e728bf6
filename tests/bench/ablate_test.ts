import { ablate, type AblationOptions } from "../../bench/ablate.ts";
import { spreadOf, summarize, toCsv } from "../../bench/ablate_report.ts";
import type { AblationRun } from "../../bench/ablate_store.ts";
import { addLora } from "../../train/adapters/lora.ts";
import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { Trainer } from "../../train/loop.ts";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { device } from "../device.ts";

const EXAMPLES = ["one", "two", "three", "four", "five", "six"].map((word, i) => ({
  prompt: `${word} =`,
  answer: ` ${i % 2}`,
}));

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
}, { seed: 1 });
tiny.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
  config: { "eos_token": "<end>" },
});
await saveModel(tiny, `${folder}/model`);

const OPTIONS: Omit<AblationOptions, "outDir"> = {
  model: `${folder}/model`,
  quantize: "nf4",
  doubleQuant: true,
  ranks: [1, 2],
  modules: [["v_proj", "q_proj"], ["all"]],
  seeds: 2,
  train: EXAMPLES,
  test: EXAMPLES.slice(0, 4),
  training: { steps: 12, batchSize: 2, length: 16, learningRate: 3e-2 },
};

/** What does not depend on how fast the machine is. */
function numbersOf({ r, modules, seed, key, accuracy, perplexity, loss, trainable }: AblationRun) {
  return { r, modules, seed, key, accuracy, perplexity, loss, trainable };
}

const outDir = `${folder}/whole`;
const whole = await ablate(device, { ...OPTIONS, outDir });

Deno.test("ablate() makes every combination with every seed, and learns", () => {
  assertEquals(
    whole.runs.map(({ r, alpha, modules, seed }) => `${modules} ${r} ${alpha} ${seed}`),
    ["q_proj,v_proj", "all-linear"].flatMap((modules) =>
      [1, 2].flatMap((r) => [0, 1].map((seed) => `${modules} ${r} ${2 * r} ${seed}`))
    ),
  );
  for (const run of whole.runs) {
    assertEquals([run.steps, run.adapterBytes], [12, 4 * run.trainable]);
    // Before training it is about 257, the size of the vocabulary.
    assert(run.perplexity < 200 && run.loss < 5.3, `loss ${run.loss}`);
    assert(run.seconds > 0 && run.tokensPerSecond > 0 && run.peakBytes > run.adapterBytes);
  }
  // r · (in + out) for each layer: two of 64 to 64; all seven are of that size.
  assertEquals(whole.summary.map(({ trainable }) => trainable), [256, 512, 896, 1792]);
  assertEquals(new Set(whole.runs.map(({ loss }) => loss)).size, whole.runs.length);
  assertEquals([whole.resumed, whole.perplexityOf], [0, "test answers"]);
});

Deno.test("ablate() writes runs and rows as JSON and CSV", async () => {
  const { files, runs, summary, common } = whole;
  const json = JSON.parse(await Deno.readTextFile(files.json));
  assertEquals(json.summary, structuredClone(summary));
  assertEquals(json.runs.map(numbersOf), runs.map(numbersOf));
  assertEquals(Object.keys(json.common), Object.keys(common));
  const [head, ...rows] = (await Deno.readTextFile(files.csv)).trimEnd().split("\n");
  assertEquals(rows.length, 8 + 4);
  assert(head.startsWith("row,modules,r,alpha,seed,accuracy,"));
  assert(rows[0].startsWith(`run,"q_proj,v_proj",1,2,0,${runs[0].accuracy},,`), rows[0]);
  assert(rows[8].startsWith(`summary,"q_proj,v_proj",1,2,,${summary[0].accuracy.mean},`), rows[8]);
});

Deno.test("ablate() goes on where it was: only what is missing is made, with the same numbers", async () => {
  const wanted = whole.runs.map(numbersOf);
  const path = `${outDir}/runs.jsonl`;
  const lines = (await Deno.readTextFile(path)).trimEnd().split("\n");
  assertEquals(lines.length, 8);
  const made: AblationRun[] = [];
  const onRun = (run: AblationRun) => void made.push(run);
  const again = await ablate(device, { ...OPTIONS, outDir, onRun });
  assertEquals([again.resumed, made.length, again.runs], [8, 0, whole.runs]);

  await Deno.writeTextFile(path, lines.toSpliced(5, 1).join("\n"));
  const mended = await ablate(device, { ...OPTIONS, outDir, onRun });
  assertEquals(made.map(numbersOf), [wanted[5]]);
  assertEquals(mended.runs.map(numbersOf), wanted);
  assertEquals(mended.resumed, 7);
});

Deno.test("ablate() that was stopped keeps the finished runs, and order makes no difference", async () => {
  const outDir = `${folder}/stopped`;
  const ranks = [2, 1];
  const onProgress = ({ run, step }: { run: number; step: number }) => {
    if (run === 2 && step === 3) throw new Error("no power");
  };
  await assertRejects(
    () => ablate(device, { ...OPTIONS, ranks, outDir, onProgress }),
    Error,
    "Cannot finish run 2 of 8 (r 2, q_proj,v_proj, seed 1): no power",
  );
  const found = await ablate(device, { ...OPTIONS, ranks, outDir });
  assertEquals(found.resumed, 1);
  const sorted = (runs: readonly AblationRun[]) =>
    runs.map(numbersOf).toSorted((a, b) => a.key < b.key ? -1 : 1);
  assertEquals(sorted(found.runs), sorted(whole.runs));
});

Deno.test("ablate() with other settings makes other runs, and keeps the earlier ones", async () => {
  const outDir = `${folder}/other`;
  const small = { ...OPTIONS, ranks: [1], modules: [["q_proj"]], seeds: 1, outDir };
  const { runs: [first] } = await ablate(device, small);
  const changes: Partial<AblationOptions>[] = [
    { training: { ...OPTIONS.training, steps: 2 } },
    { train: EXAMPLES.slice(1) },
    { quantize: undefined, doubleQuant: undefined },
    { alphaPerRank: 1 },
    { perplexityIds: Int32Array.from({ length: 40 }, (_, i) => i), window: 16 },
  ];
  for (const change of changes) {
    const found = await ablate(device, { ...small, ...change });
    assertEquals(found.resumed, 0);
    assert(found.runs[0].key !== first.key && found.runs[0].perplexity !== first.perplexity);
    assertEquals(
      found.perplexityOf,
      change.perplexityIds ? "held-out text" : "test answers",
    );
  }
  assertEquals((await ablate(device, small)).runs, [first]);
  const text = await Deno.readTextFile(`${outDir}/runs.jsonl`);
  assertEquals(text.trimEnd().split("\n").length, 1 + changes.length);
});

Deno.test("ablate() leaves nothing of a run in memory", async () => {
  const live: number[] = [];
  const onRun = () => void live.push(device.memory.live);
  await ablate(device, { ...OPTIONS, seeds: 3, outDir: `${folder}/memory`, onRun });
  assertEquals(live.length, 12);
  assertEquals(new Set(live).size, 1, `live bytes after each run: ${live}`);
});

Deno.test("a trainer gives its recorded steps back", async () => {
  const sequences = [{ ids: Int32Array.of(1, 2, 3), labels: Int32Array.of(2, 3, 4) }];
  const live: number[] = [];
  for (let i = 0; i < 3; i++) {
    const lora = addLora(tiny, { r: 2 });
    {
      using trainer = new Trainer(tiny, sequences, { steps: 2, batchSize: 1, length: 16 });
      for await (const _ of trainer.run());
    }
    lora.remove();
    live.push(device.memory.live);
  }
  assertEquals(live, live.map(() => live[0]));
});

/** A run with this accuracy, and 100 parameters for each rank. */
function runOf(r: number, seed: number, accuracy: number): AblationRun {
  const rest = { perplexity: 2, seconds: 1, tokensPerSecond: 1, peakBytes: 1, loss: 1, steps: 1 };
  const own = { key: `${r} ${seed}`, r, alpha: 2 * r, modules: "q_proj", seed, accuracy };
  return { ...own, ...rest, trainable: 100 * r, adapterBytes: 400 * r };
}

Deno.test("summarize() names the best row, and the smallest within a deviation of it", () => {
  assertEquals(spreadOf([1, 3]), { mean: 2, deviation: Math.SQRT2 });
  assertEquals(spreadOf([5]), { mean: 5, deviation: null });
  const rows = summarize([
    ...[runOf(8, 0, 0.75), runOf(8, 1, 0.85)], // 0.8 ± 0.07
    ...[runOf(4, 0, 0.80), runOf(4, 1, 0.80)],
    ...[runOf(2, 0, 0.74), runOf(2, 1, 0.76)],
    ...[runOf(1, 0, 0.60), runOf(1, 1, 0.90)], // 0.75, with the best seed
    ...[runOf(16, 0, 0.81), runOf(16, 1, 0.90)], // 0.855 ± 0.064
  ]);
  const marks = rows.map(({ r, isBest, isRecommended }) => [r, isBest, isRecommended]);
  assertEquals(marks, [
    ...[[8, false, false], [4, false, true], [2, false, false], [1, false, false]],
    [16, true, false],
  ]);
  const single = summarize([runOf(1, 0, 0.5), runOf(2, 0, 0.6), runOf(4, 0, 0.6)]);
  assertEquals(single.map(({ isBest }) => isBest), [false, true, false]);
  assertEquals(single.map(({ isRecommended }) => isRecommended), [false, true, false]);
  assert(
    summarize([runOf(1, 0, 0)]).every(({ isBest, isRecommended }) => !isBest && !isRecommended),
  );
  assert(toCsv([], single).includes("summary,q_proj,1,2,,0.5,,2,,100,"));
});

Deno.test("ablate() says what is wrong before anything runs", async () => {
  const outDir = `${folder}/wrong`;
  const cases: [Partial<AblationOptions>, string][] = [
    [{ ranks: [1, 0] }, "found rank 0, wanted whole numbers"],
    [{ ranks: [] }, "found no rank"],
    [{ modules: [] }, "found no modules"],
    [{ modules: [["all"], ["q_prj"]] }, 'no linear layer "q_prj", wanted q_proj, k_proj'],
    [{ seeds: 0 }, "found 0 seeds"],
    [{ train: [] }, "it is empty"],
    [{ test: [] }, "it is empty"],
    [{ alphaPerRank: 0 }, "alphaPerRank 0"],
  ];
  for (const [change, said] of cases) {
    await assertRejects(() => ablate(device, { ...OPTIONS, ...change, outDir }), RangeError, said);
  }
  await assertRejects(() => Deno.stat(outDir), Deno.errors.NotFound, "");
  await Deno.writeTextFile(outDir, "");
  await assertRejects(() => ablate(device, { ...OPTIONS, outDir }), Error, "Cannot keep runs in");
  await Deno.mkdir(`${folder}/broken`);
  await Deno.writeTextFile(`${folder}/broken/runs.jsonl`, '{"key":"a"}\n');
  await assertRejects(
    () => ablate(device, { ...OPTIONS, outDir: `${folder}/broken` }),
    SyntaxError,
    "line 1 of",
  );
});
