import { readArguments } from "../../cli/command.ts";
import command from "../../cli/train.ts";
import { addLora } from "../../train/adapters/lora.ts";
import { saveCheckpoint } from "../../train/checkpoint.ts";
import { readJsonl } from "../../train/data/dataset.ts";
import { Trainer } from "../../train/loop.ts";
import { loadModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertMatch, assertThrows } from "../assert.ts";
import { device } from "../device.ts";
import { nibble, type Outcome, spawnNibble } from "./spawn.ts";
import { TINY, tinyFiles } from "./tiny_files.ts";

const folder = await tinyFiles();
const MODEL = ["--model", `${folder}/model`];
const DATA = ["--data", `${folder}/set.jsonl`];
const NF4 = ["--quantize", "nf4", "--double-quant"];
const QLORA = [...MODEL, ...NF4, ...DATA, "--r", "2", "--length", "16", "--batch-size", "2"];

/** Trains without a complaint. With `--json`, progress goes to stderr. */
async function train(...args: string[]): Promise<Outcome> {
  const outcome = await nibble("train", ...args);
  const complaints = outcome.stderr.replace(args.includes("--json") ? /^Training .*\n/gm : "", "");
  assertEquals([outcome.code, complaints], [0, ""], outcome.stdout);
  return outcome;
}

// deno-lint-ignore no-explicit-any
async function evaluated(...args: string[]): Promise<any> {
  const { code, stdout, stderr } = await nibble("eval", ...args, "--json");
  assertEquals(code, 0, stderr);
  return JSON.parse(stdout);
}

function weightsOf(name: string): Uint8Array {
  return Deno.readFileSync(`${folder}/${name}/adapter_model.safetensors`);
}

function namesIn(path: string): string[] {
  return Array.from(Deno.readDirSync(path), ({ name }) => name).sort();
}

Deno.test("nibble train writes an adapter on a 4-bit model that eval, generate and inspect read", async () => {
  const out = `${folder}/qlora`;
  const args = [...QLORA, "--epochs", "40", "--learning-rate", "0.02", "--alpha", "8"];
  const { stdout } = await train(...args, "--out", out);
  assertMatch(stdout, /model: [\d,]+ parameters with the adapter, .*; 1,792 trained \(/);
  assertMatch(stdout, /^12 sequences, \d+ steps of 2×16 tokens$/m);
  assertMatch(stdout, /^[\d.]+ .B of GPU memory: .* for the model, .* moments, .* for a step$/m);
  assertMatch(stdout, /^Training .* loss [\d.]+/m);
  assertMatch(stdout, /at most .* of GPU memory\. The adapter is in .*\/qlora\n$/);
  assertEquals(namesIn(out), ["adapter_config.json", "adapter_model.safetensors"]);
  const config = JSON.parse(await Deno.readTextFile(`${out}/adapter_config.json`));
  assertEquals([config.peft_type, config.r, config.lora_alpha], ["LORA", 2, 8]);
  assertEquals(config.base_model_name_or_path, `${folder}/model`);

  const before = await evaluated(...MODEL, ...NF4, ...DATA);
  const after = await evaluated(...MODEL, ...NF4, ...DATA, "--adapter", out);
  assert(after.nll < before.nll / 4, `nll from ${before.nll} to ${after.nll}`);
  assertEquals([before.accuracy, after.accuracy], [0, 1]);
  const answer = await nibble("generate", "2 is", ...MODEL, ...NF4, "--adapter", out);
  assertEquals([answer.code, answer.stdout], [0, "2 is even\n"], answer.stderr);
  const { stdout: shares } = await nibble("inspect", `${folder}/model`, "--adapter", out);
  const share = /model: ([\d,]+) parameters with .*; 1,792 trained \((.*)\)$/m.exec(stdout)!;
  assert(shares.includes(`\nTrainable: 1,792 of ${share[1]} parameters, ${share[2]}\n`), shares);
});

Deno.test("nibble train --adapter goes on with an adapter", async () => {
  const args = [...MODEL, ...DATA, "--steps", "2"];
  const { stdout } = await train(
    ...[...args, "--adapter", `${folder}/adapter`, "--out", `${folder}/further`],
  );
  // Of the 8 rows of a batch, the set fills three at most.
  assertMatch(stdout, /^12 sequences, 2 steps of 3×\d+ tokens$/m);
  const config = JSON.parse(await Deno.readTextFile(`${folder}/further/adapter_config.json`));
  assertEquals(config.r, 2);
  assert(weightsOf("further").length === weightsOf("adapter").length);
});

Deno.test("nibble train knows the words of PEFT and transformers", () => {
  const cases = {
    "--lora-alpha": "--alpha",
    "--lora-dropout": "--dropout",
    "--gradient-accumulation-steps": "--accumulation",
    "--num-train-epochs": "--epochs",
    "--per-device-train-batch-size": "--batch-size",
    "--lr-scheduler-type": "--schedule",
    "--max-seq-length": "--length",
  };
  for (const [word, flag] of Object.entries(cases)) {
    const message = `Unknown flag ${word}: did you mean ${flag}?`;
    assertThrows(() => readArguments(command, [word, "1"]), TypeError, message);
  }
});

Deno.test("nibble train says which fields of its data it does not read", async () => {
  const rows = [{ instruction: "1 is", input: "odd?", output: " odd", id: 7 }];
  const data = `${folder}/alpaca.jsonl`;
  await Deno.writeTextFile(data, `\ufeff\n${JSON.stringify(rows[0])}\n`);
  const fields = ["--prompt-field", "instruction", "--answer-field", "output"];
  const args = [...MODEL, "--steps", "1", "--out", `${folder}/alpaca`];
  const { stdout } = await train(...args, "--data", data, ...fields);
  assertMatch(stdout, /^Not read of .*alpaca\.jsonl: "input", "id"$/m);
  const plain = await train(...args, ...DATA);
  assert(!plain.stdout.includes("Not read"), plain.stdout);
});

Deno.test("nibble train notes a rank that is too large, and an alpha that is too small", async () => {
  const args = [...MODEL, ...DATA, "--steps", "1", "--out", `${folder}/noted`];
  const { stdout } = await train(...args, "--r", "64", "--alpha", "8");
  assertMatch(stdout, /^Alpha 8 at rank 64 takes .* times 0\.13, .*alpha 64 and 128, or --rslora/m);
  assertMatch(stdout, /^Rank 64 is too large for 7 of 7 layers: model\.layers\.0\./m);
  const usual = await train(...args, "--r", "4", "--alpha", "4");
  assert(!/^(Alpha|Rank)/m.test(usual.stdout), usual.stdout);
});

Deno.test("nibble train refuses options that would do nothing", async () => {
  const adapter = ["--adapter", `${folder}/adapter`];
  const text = ["--text", `${folder}/text.txt`];
  const cases: [RegExp, ...string[]][] = [
    [/--r is of an adapter, and --full trains without: leave/, ...DATA, "--full", "--r", "8"],
    [/--rslora is of an adapter/, ...DATA, "--full", "--rslora"],
    [/--alpha is of a new adapter, and --adapter goes on/, ...DATA, ...adapter, "--alpha", "16"],
    [/--target-modules is of a new/, ...DATA, ...adapter, "--target-modules", "all"],
    [/--dropout is of a new adapter/, ...DATA, ...adapter, "--dropout", "0.1"],
    [/--dtype is of the weights that --full or --qat/, ...DATA, "--dtype", "f16"],
    [/--checkpoint-every says how often/, ...DATA, "--checkpoint-every", "5"],
    [/--answer-field names a key of --data: leave/, ...text, "--answer-field", "x"],
    [/--weights is of weights that are/, ...text, "--full", "--init", "--weights", "f32"],
  ];
  for (const [message, ...args] of cases) {
    const wrong = await nibble("train", ...MODEL, ...args, "--out", `${folder}/unused`);
    assertEquals([wrong.code, wrong.stdout], [2, ""], args.join(" "));
    assertMatch(wrong.stderr, message);
  }
  assert(!namesIn(folder).includes("unused"));
});

Deno.test("nibble train gives the same bytes for the same seed, and others for another", async () => {
  const args = [...QLORA, "--steps", "5", "--dropout", "0.1"];
  await train(...args, "--seed", "7", "--out", `${folder}/one`);
  await train(...args, "--seed", "7", "--out", `${folder}/two`);
  await train(...args, "--seed", "8", "--out", `${folder}/three`);
  assertEquals(weightsOf("one"), weightsOf("two"));
  assert(weightsOf("one").some((byte, i) => byte !== weightsOf("three")[i]));
});

Deno.test("nibble train --checkpointing takes less memory for a step, and gives the same bytes", async () => {
  const args = [...QLORA, "--steps", "4", "--dropout", "0.1", "--json"];
  const run = async (name: string, ...more: string[]) => {
    const { stdout } = await train(...args, "--out", `${folder}/${name}`, ...more);
    return JSON.parse(stdout).memory.step;
  };
  const plain = await run("plain");
  const [all, one] = [
    await run("all", "--checkpointing"),
    await run("one", "--checkpointing", "--keep-blocks", "1"),
  ];
  assert(all < plain && all <= one && one <= plain, `${all}, ${one} and ${plain} bytes`);
  for (const name of ["all", "one"]) assertEquals(weightsOf(name), weightsOf("plain"));
  const wrong = await nibble("train", ...QLORA, "--out", "x", "--keep-blocks", "1");
  assertEquals([wrong.code, wrong.stdout], [2, ""]);
  assertMatch(wrong.stderr, /--keep-blocks says how much of --checkpointing is left out/);
});

Deno.test("nibble train --json prints one object, and --log a line for each step", async () => {
  const log = `${folder}/steps.jsonl`;
  const out = `${folder}/json`;
  const { stdout } = await train(...QLORA, "--steps", "3", "--out", out, "--log", log, "--json");
  const found = JSON.parse(stdout);
  assertEquals(Object.keys(found), [
    ...["adapter", "out", "steps", "seconds", "loss", "tokens", "tokensPerSecond"],
    ...["parameters", "peakBytes", "memory"],
  ]);
  const { held, state, step, peak } = found.memory;
  assertEquals([held + state + step, found.peakBytes >= peak], [peak, true]);
  assertEquals([found.adapter, found.out, found.steps], [device.adapter.name, out, 3]);
  assertEquals(found.parameters.trainable, 1792);
  assert(found.peakBytes > 0 && found.seconds > 0 && found.tokens > 0);
  const lines = (await Deno.readTextFile(log)).trimEnd().split("\n").map((line) =>
    JSON.parse(line)
  );
  assertEquals(lines.map(({ step }) => step), [1, 2, 3]);
  assertEquals(Object.keys(lines[0]).sort(), [
    ...["epoch", "gradNorm", "learningRate", "loss", "step", "steps", "tokens"],
    "tokensPerSecond",
  ]);
  assertEquals([lines[2].loss, lines[2].tokens], [found.loss, found.tokens]);
});

Deno.test("nibble train --log leaves the figures of a run that diverges", async () => {
  const log = `${folder}/diverged.jsonl`;
  const args = ["--steps", "9", "--learning-rate", "1e30", "--max-grad-norm", "0", "--log", log];
  const { code, stderr } = await nibble("train", ...QLORA, ...args, "--out", `${folder}/none`);
  assertEquals(code, 1);
  const failed = Number(/the loss is NaN at step (\d+)/.exec(stderr)![1]);
  const steps = (await Deno.readTextFile(log)).trimEnd().split("\n").map((line) =>
    JSON.parse(line).step
  );
  assertEquals(steps, Array.from({ length: failed - 1 }, (_, i) => i + 1));
});

Deno.test("nibble train --full writes a model folder", async () => {
  const out = `${folder}/full`;
  const args = [...MODEL, ...DATA, "--full", "--epochs", "20", "--learning-rate", "0.01"];
  const { stdout } = await train(...args, "--batch-size", "1", "--out", out, "--dtype", "f16");
  assertMatch(stdout, /trained \(100\.0 %\)/);
  assertMatch(stdout, /The model is in /);
  assertEquals(namesIn(out), namesIn(`${folder}/model`));
  const size = (name: string) => Deno.statSync(`${folder}/${name}/model.safetensors`).size;
  assert(size("full") < 0.6 * size("model"));
  const before = await evaluated(...MODEL, ...DATA);
  const after = await evaluated("--model", out, ...DATA);
  assert(after.nll < before.nll / 2, `nll from ${before.nll} to ${after.nll}`);
});

Deno.test("nibble train --full --init pretrains on a text from config.json and tokenizer.json alone", async () => {
  const start = `${folder}/start`;
  await Deno.mkdir(start);
  await Deno.writeTextFile(`${start}/config.json`, JSON.stringify(TINY));
  for (const name of namesIn(`${folder}/model`).filter((name) => name.startsWith("tokenizer"))) {
    await Deno.copyFile(`${folder}/model/${name}`, `${start}/${name}`);
  }
  const text = ["--text", `${folder}/text.txt`];
  const args = ["--full", "--init", "--model", start, ...text, "--length", "32"];
  const more = ["--steps", "30", "--batch-size", "4", "--learning-rate", "0.01"];
  const { stdout } = await train(...args, ...more, "--out", `${folder}/new`);
  // 408 bytes and two end tokens: 409 places have a next token.
  assertMatch(stdout, /^13 sequences, 30 steps of 4×32 tokens$/m);
  const { perplexity } = await evaluated("--model", `${folder}/new`, ...text, "--window", "32");
  assert(perplexity < 30, `perplexity ${perplexity} of 257`);
  // The same again replaces it, with the same bytes.
  const first = await Deno.readFile(`${folder}/new/model.safetensors`);
  await train(...args, ...more, "--out", `${folder}/new`);
  assertEquals(await Deno.readFile(`${folder}/new/model.safetensors`), first);
});

Deno.test("nibble train --config takes the same options from a file, and flags override it", async () => {
  const path = `${folder}/run.json`;
  const config = {
    model: `${folder}/model`,
    quantize: "nf4",
    doubleQuant: true,
    data: `${folder}/set.jsonl`,
    r: 2,
    targetModules: ["q_proj", "v_proj"],
    length: 16,
    batchSize: 2,
    steps: 2,
    out: `${folder}/by-file`,
  };
  await Deno.writeTextFile(path, JSON.stringify(config));
  await train("--config", path);
  const flags = ["--target-modules", "q_proj,v_proj", "--steps", "2"];
  await train(...QLORA, ...flags, "--out", `${folder}/by-flags`);
  assertEquals(weightsOf("by-file"), weightsOf("by-flags"));
  const { stdout } = await train("--config", path, "--steps", "3", "--json");
  assertEquals(JSON.parse(stdout).steps, 3);

  await Deno.writeTextFile(path, JSON.stringify({ ...config, learningrate: 1 }));
  const key = await nibble("train", "--config", path);
  assertEquals(
    [key.code, key.stdout, key.stderr],
    [
      2,
      "",
      `error: Cannot read config file ${path}: unknown key "learningrate": did you mean learningRate?\n`,
    ],
  );
  const flag = await nibble("train", ...QLORA, "--out", "x", "--learning-rat", "1");
  assertEquals(
    [flag.code, flag.stdout, flag.stderr],
    [2, "", "error: Unknown flag --learning-rat: did you mean --learning-rate?\n"],
  );
});

const RUN = [...QLORA, "--steps", "6", "--seed", "2", "--dropout", "0.1"];

Deno.test("nibble train --checkpoint goes on where a run was stopped, to the same bytes", async () => {
  const log = (name: string) => ["--log", `${folder}/${name}.jsonl`];
  await train(...RUN, "--out", `${folder}/whole`, ...log("whole"));
  const checkpoint = `${folder}/run.safetensors`;
  {
    const model = await loadModel(device, `${folder}/model`, {
      quantize: "nf4",
      doubleQuant: true,
    });
    addLora(model, { r: 2, alpha: 16, dropout: 0.1, seed: 2 });
    const examples = await readJsonl(`${folder}/set.jsonl`);
    using trainer = new Trainer(model, examples, { steps: 6, batchSize: 2, length: 16, seed: 2 });
    for await (const _ of trainer.run(4));
    await saveCheckpoint(trainer, checkpoint);
  }
  const args = ["--checkpoint", checkpoint, "--checkpoint-every", "1"];
  const { stdout } = await train(...RUN, ...args, "--out", `${folder}/resumed`, ...log("resumed"));
  assertMatch(stdout, /^Going on from step 4 of .*run\.safetensors$/m);
  assertEquals(weightsOf("resumed"), weightsOf("whole"));
  const steps = (name: string) =>
    Deno.readTextFileSync(`${folder}/${name}.jsonl`).trimEnd().split("\n")
      .map((line) => JSON.parse(line)).map(({ step, loss, tokens }) => [step, loss, tokens]);
  assertEquals(steps("resumed"), steps("whole").slice(4));

  // The same line but for --quantize: the adapter would go on beside other weights.
  const plain = RUN.filter((arg) => !NF4.includes(arg));
  const other = await nibble("train", ...plain, ...args, "--out", `${folder}/other`);
  assertEquals(other.code, 1, other.stdout);
  assertMatch(other.stderr, /made with \{"base":"\d+ layers in nf4-dq, .*this run has .*in plain"/);
  // The run is over: its checkpoint gives the adapter once more, and no step.
  const again = await train(...RUN, ...args, "--out", `${folder}/again`, "--json");
  assertEquals(weightsOf("again"), weightsOf("whole"));
  assertEquals(JSON.parse(again.stdout).steps, 6);
});

Deno.test({
  name: "nibble train that is killed leaves a checkpoint to go on from, and nothing of its output",
  ignore: Deno.build.os === "windows", // no signal can be sent to a process there
  async fn() {
    const out = `${folder}/killed`;
    const long = [...QLORA, "--steps", "80", "--out", out];
    const log = `${folder}/killed.jsonl`;
    const checkpoint = ["--checkpoint", `${folder}/killed.safetensors`, "--checkpoint-every", "2"];
    const args = [...long, ...checkpoint, "--log", log];
    const child = spawnNibble(["train", ...args], { NO_COLOR: "1" });
    const isThere = () => namesIn(folder).includes("killed.safetensors");
    while (!isThere()) await new Promise((done) => setTimeout(done, 5));
    child.kill("SIGINT");
    const { code, stderr } = await child.output();
    assertEquals([code, new TextDecoder().decode(stderr)], [130, "Stopped by Ctrl-C\n"]);
    assert(!namesIn(folder).includes("killed"));
    const { stdout } = await train(...args);
    assertMatch(stdout, /^Going on from step \d+ of /m);
    const kept = (await Deno.readTextFile(log)).trimEnd().split("\n").map((line) =>
      JSON.parse(line).step
    );
    assertEquals(kept, Array.from({ length: 80 }, (_, i) => i + 1));
    await train(...long, "--out", `${folder}/at-once`);
    assertEquals(weightsOf("killed"), weightsOf("at-once"));
  },
});

Deno.test("nibble train --profile says where a step's time goes, and writes a trace", async () => {
  const profiled = `${folder}/profile`;
  const embedded = [
    "--model",
    "assets/base",
    "--data",
    "assets/wordnet/train.jsonl",
    "--limit",
    "40",
  ];
  const small = ["--steps", "5", "--length", "64", "--batch-size", "2"];
  const args = [...embedded, ...NF4, ...small];
  const { stdout } = await train(...args, "--out", `${folder}/profiled`, "--profile", profiled);
  assertMatch(stdout, /^The first step took [\d.]+ s; compiling \d+ kernels took [\d.]+ ms$/m);
  assertMatch(stdout, /^Step 3: \d+ dispatches: [\d.]+ ms in kernels, [\d.]+ ms from the first/m);
  assertMatch(stdout, /^kernel +calls +ms +share +GFLOP\/s +GB\/s$/m);
  assertMatch(stdout, /^rms_norm +\d+ +[\d.e-]+ +[\d.]+ % +[\d.e-]+$/m);
  assertMatch(stdout, /^Every dispatch of it is in .*\/profile\/step-3\.json$/m);
  const trace = JSON.parse(await Deno.readTextFile(`${profiled}/step-3.json`));
  assertEquals([trace.displayTimeUnit, trace.otherData.step], ["ms", 3]);
  const events = trace.traceEvents.filter(({ ph }: { ph: string }) => ph === "X");
  assert(events.length > 20, `${events.length} events`);
  const dispatches = Number(/^Step 3: (\d+) dispatches/m.exec(stdout)![1]);
  assertEquals(events.length, dispatches);
  let end = 0;
  for (const { name, ts, dur, args } of events) {
    assert(name.length > 0 && ts >= end - 1e-6 && dur >= 0 && args.bytes > 0, JSON.stringify(name));
    assertMatch(args.grid, /^\d+(×\d+){0,2}$/);
    end = ts + dur;
  }
  // Whoever profiles a long run reads it before that ends.
  assert(stdout.indexOf("Every dispatch") < stdout.indexOf("Training "), stdout);
  const none = ["--out", `${folder}/none`, "--profile", `${folder}/set.jsonl`];
  const { code, stderr } = await nibble("train", ...args, ...none);
  assertEquals(code, 1);
  assertEquals(
    stderr,
    `error: Cannot write to "${folder}/set.jsonl": found a file of that name, wanted a folder; name another with --profile\n`,
  );
  // The weights are those of a run without it.
  await train(...args, "--out", `${folder}/unprofiled`);
  assertEquals(weightsOf("profiled"), weightsOf("unprofiled"));
});
