/** `nibble train --qat`. */
import { IntegerTensor, type IntegerType } from "../../kernels/quant/integer.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { loadModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { QuantizedLinear } from "../../train/nn/linear.ts";
import { QuantizedActivationLinear } from "../../train/nn/quantized_activations.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";
import { assertFails, tinyFiles, tinyModel } from "./tiny_files.ts";

const folder = await tinyFiles();
const BASE = ["--model", `${folder}/model`, "--data", `${folder}/set.jsonl`];
const SHORT = [
  ...BASE,
  "--steps",
  "8",
  "--length",
  "16",
  "--batch-size",
  "2",
  "--learning-rate",
  "0.01",
];

const TEACHER = ["--teacher", `${folder}/model`];

/** What all of a model's quantized weights decode to, by path. */
async function decoded(model: LanguageModel): Promise<Record<string, Float32Array>> {
  const found: Record<string, Float32Array> = {};
  for (const [path, layer] of model.linearLayers()) {
    found[path] = await layer.dense().read() as Float32Array;
  }
  return found;
}

/** The largest difference between a plain model's weights and themselves after quantizing, as a share of the largest weight. */
async function lost(name: string, quantize: IntegerType): Promise<number> {
  const plain = await decoded(await loadModel(device, `${folder}/${name}`));
  const again = await loadModel(device, `${folder}/${name}`, { quantize });
  for (const [, layer] of again.linearLayers()) {
    assert(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor);
  }
  let most = 0;
  for (const [path, numbers] of Object.entries(await decoded(again))) {
    const size = plain[path].reduce((a, b) => Math.max(a, Math.abs(b)), 0);
    for (const [i, x] of numbers.entries()) {
      most = Math.max(most, Math.abs(x - plain[path][i]) / size);
    }
  }
  return most;
}

Deno.test("nibble train --qat saves weights that lose nothing when they are quantized", async () => {
  for (
    const [scheme, ...args] of [["int4", "--full", ...TEACHER], ["int8", "--full"], [
      "int4",
    ]] as const
  ) {
    const out = `${folder}/${scheme}${args.length}`;
    const all = [...SHORT, "--qat", scheme, ...args, "--out", out];
    const { code, stdout, stderr } = await nibble("train", ...all);
    assertEquals([code, stderr], [0, ""]);
    // The teacher's own loss on this task is far above its divergence from itself, rounded.
    const loss = Number(/loss ([\d.]+)/.exec(stdout)![1]);
    assertEquals(loss < 1, args.length > 1 && args[1] === "--teacher", `loss ${loss}`);
    assertMatch(stdout, /The model is in .*\n--quantize int\d gives back its whole numbers\n$/);
    assert(await lost(out.slice(folder.length + 1), scheme) < 1e-6);
    // Not so with weights that were trained without it.
    if (scheme === "int4") assert(await lost("model", scheme) > 0.01);
  }
  const blocks = ["--qat", "int4", "--qat-group", "32", "--dtype", "f16", "--full"];
  const { stdout } = await nibble("train", ...SHORT, ...blocks, "--out", `${folder}/halves`);
  assertMatch(stdout, /\n--quantize int4 gives back its whole numbers\n$/);
  assert(await lost("halves", "int4") < 1e-3);
});

Deno.test("nibble train --qat-keep leaves layers as they are", async () => {
  const args = [...SHORT, "--qat", "int4", "--qat-keep", "v_proj,down_proj", "--full"];
  const { code, stdout, stderr } = await nibble("train", ...args, "--out", `${folder}/mixed`);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /--quantize int4 gives back its whole numbers\n$/);
  const [plain, again] = await Promise.all(
    [{}, { quantize: "int4" } as const].map(async (own) =>
      decoded(await loadModel(device, `${folder}/mixed`, own))
    ),
  );
  const changed = Object.keys(plain).filter((path) =>
    plain[path].some((x, i) => Math.abs(x - again[path][i]) > 1e-4)
  );
  assertEquals(changed, []);
});

Deno.test("nibble train --qat saves learnt steps: quantizing gives the trained whole numbers", async () => {
  const args = ["--qat", "int2", "--qat-step", "learnt", "--qat-group", "16", "--full"];
  const { code, stdout } = await nibble("train", ...SHORT, ...args, "--out", `${folder}/learnt`);
  assertEquals(code, 0);
  assertMatch(stdout, /\n--quantize int2 gives back its whole numbers\n$/);
  assert(await lost("learnt", "int2") < 1e-6);
  const out = ["--quantize", "int2", "--out", `${folder}/packed`, "--json"];
  const told = await nibble("quantize", "--model", `${folder}/learnt`, ...out);
  assertEquals(told.code, 0, told.stderr);
  const { blockSize, layers, after } = JSON.parse(told.stdout);
  assertEquals(blockSize, 16);
  assert(layers.at(-1).relativeError < 1e-6);
  // Two bits, and a scale for 16 weights.
  assertEquals(after.bitsPerWeight, 4);
});

Deno.test("nibble train --qat rounds activations, learns steps, and goes on from a checkpoint", async () => {
  const rounding = [
    ...["--qat", "int3", "--qat-step", "learnt", "--qat-activations", "int8"],
    ...["--qat-range", "learnt", "--qat-observe", "2", "--full"],
  ];
  const run = (name: string, ...args: string[]) =>
    nibble("train", ...SHORT, ...rounding, "--out", `${folder}/${name}`, ...args);
  const whole = await run("whole");
  assertEquals([whole.code, whole.stderr], [0, ""]);
  assertMatch(
    whole.stdout,
    /It rounds weights to int3 and inputs to int8 as in training; with --de/,
  );
  const checkpoint = ["--checkpoint", `${folder}/run.safetensors`, "--checkpoint-every", "3"];
  await run("kept", ...checkpoint);
  // The run is over: its checkpoint, with all that observers saw, gives the model once more.
  await run("again", ...checkpoint);
  const bytes = (name: string) => Deno.readFileSync(`${folder}/${name}/model.safetensors`);
  assertEquals(bytes("kept"), bytes("whole"));
  assertEquals(bytes("again"), bytes("whole"));
  const roundings = async (name: string) => {
    const model = await loadModel(device, `${folder}/${name}`);
    return [...model.linearLayers()].map(([, layer]) => {
      assert(layer instanceof QuantizedActivationLinear && layer.activations.kind === "static");
      return layer.activations;
    });
  };
  const first = await roundings("whole");
  // The run that goes on begins with its ranges: it observes nothing, and learns from there.
  const more = [...SHORT, "--model", `${folder}/whole`, "--dequantize", "--qat", "int3"];
  const next = async (name: string, ...args: string[]) => {
    const all = [...more, "--qat-activations", "int8", "--full", ...args];
    const { code, stderr } = await nibble("train", ...all, "--out", `${folder}/${name}`);
    assertEquals([code, stderr], [0, ""]);
    return await roundings(name);
  };
  assertEquals(await next("same"), first);
  const learnt = await next("learnt", "--qat-range", "learnt");
  const ratios = learnt.map(({ scale }, i) => scale / first[i].scale);
  assert(ratios.every((ratio) => ratio > 0.5 && ratio < 2) && ratios.some((ratio) => ratio !== 1));
  const anew = await next("anew", "--qat-observe", "2");
  assert(anew.some(({ scale }, i) => scale !== first[i].scale));
});

Deno.test("nibble train --qat rounds by rows and by layers, around zero and with zero points", async () => {
  const cases = [
    ["int8", "--qat-kind", "asymmetric", "--qat-per", "tensor"],
    ["int4", "--qat-kind", "asymmetric", "--qat-per", "channel", "--qat-step", "learnt"],
    ["int4", "--qat-kind", "symmetric-full", "--qat-group", "16"],
  ];
  for (const [i, [type, ...flags]] of cases.entries()) {
    const [out, packed] = [`${folder}/kind${i}`, `${folder}/kind${i}-packed`];
    const qat = ["--full", "--qat", type, ...flags, "--out", out];
    const run = await nibble("train", ...SHORT, ...qat);
    assertEquals([run.code, run.stderr], [0, ""]);
    const told = await nibble(
      ...["quantize", "--model", out, "--quantize", type, "--out", packed, "--json"],
    );
    assertEquals(told.code, 0, told.stderr);
    assert(JSON.parse(told.stdout).layers.at(-1).relativeError < 1e-6, flags.join(" "));
    const model = await loadModel(device, packed);
    for (const [path, layer] of model.linearLayers()) {
      assert(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor, path);
      const scales = await layer.weight.scales.read();
      const groups = flags.includes("16") ? Math.ceil(layer.shape[1] / 16) : 1;
      assertEquals(scales.length, 2 * layer.shape[0] * groups, path);
      const own = new Set(scales.filter((_, at) => at % 2 === 0));
      assertEquals(own.size === 1, flags.includes("tensor"), path);
      assertEquals(layer.weight.zeros, flags.includes("asymmetric"), path);
    }
    model.dispose();
  }
});

Deno.test("nibble train --qat warns where no step rounds inputs", async () => {
  const run = async (name: string, ...args: string[]) => {
    const qat = ["--full", "--qat", "int8", "--qat-activations", "int8", ...args];
    const { code, stderr } = await nibble("train", ...SHORT, ...qat, "--out", `${folder}/${name}`);
    assertEquals(code, 0, stderr);
    return stderr;
  };
  assertMatch(
    await run("late"),
    /^Warning: inputs are rounded in none of the 8 steps, .* first 20/,
  );
  assertEquals(await run("early", "--qat-observe", "7"), "");
  assertEquals(await run("tokens", "--qat-range", "token"), "");
});

Deno.test("nibble train --qat says which options do not go together", async () => {
  const qat = ["--qat", "int4"];
  const nf4 = ["--quantize", "nf4", "--out", `${folder}/nf4`];
  assertEquals((await nibble("quantize", "--model", `${folder}/model`, ...nf4)).code, 0);
  await saveModel(tinyModel({ vocab_size: 258 }), `${folder}/other`);
  const cases: [number, RegExp, ...string[]][] = [
    [2, /--qat-group and --qat-per channel both/, ...qat, "--qat-group=8", "--qat-per=channel"],
    [2, /--qat-kind says how --qat rounds: add that/, "--qat-kind", "symmetric"],
    [2, /--qat: found "int5", wanted one of int8, int4, int3, int2/, "--qat", "int5"],
    [2, /--qat-group: found "0", wanted a whole number ≥ 1/, ...qat, "--qat-group", "0"],
    [2, /--qat-group says how --qat rounds: add that/, "--qat-group", "32"],
    [1, /found no linear layer "v_prj"/, ...qat, "--qat-keep", "v_prj"],
    [2, /--qat-observe is of rounded inputs/, ...qat, "--qat-observe", "3"],
    [2, /--quantize freezes them/, ...qat, "--quantize", "nf4"],
    [2, /leave --dora out/, ...qat, "--dora"],
    [2, /--dropout works on inputs/, ...qat, "--dropout", "0.1"],
    [1, /it is the folder that the model is read from/, ...qat, "--out", `${folder}/model`],
    [1, /q_proj" .*: it is in nf4, and frozen; load the plain/, ...qat, "--model", `${folder}/nf4`],
    [1, /it has 257 tokens, the model 258/, ...qat, "--model", `${folder}/other`, ...TEACHER],
    [1, /nothing\/config\.json": there is no such file/, ...qat, "--teacher", `${folder}/nothing`],
  ];
  for (const [code, message, ...args] of cases) {
    const all = ["train", ...BASE, "--out", `${folder}/none`, "--json", ...args];
    await assertFails(folder, all, { code, message });
  }
});
