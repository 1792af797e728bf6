import { noGrad } from "../../core/autograd.ts";
import { tensor } from "../../core/tensor.ts";
import { readText } from "../../train/data/dataset.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { loadModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { QuantizedLinear } from "../../train/nn/linear.ts";
import { QuantizedActivationLinear } from "../../train/nn/quantized_activations.ts";
import { quantizeActivations } from "../../train/quant/quantize_activations.ts";
import { rotateLayers } from "../../train/quant/rotate_layers.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import { enlarge } from "../tiny_models.ts";
import { nibble } from "./spawn.ts";

const BASE = new URL("../../assets/base", import.meta.url).pathname;
const HELDOUT = new URL("../../assets/wordnet/heldout.txt", import.meta.url).pathname;

async function logits(model: LanguageModel): Promise<Float32Array> {
  const ids = model.tokenizer!.encode("a large wild cat with stripes");
  return await noGrad(() => model.forward(tensor(device, ids, [1, ids.length])))
    .read() as Float32Array;
}

/** How the inputs of the layers are rounded, by the last parts of their names. */
function kindsOf(model: LanguageModel): Record<string, string> {
  return Object.fromEntries(
    [...model.linearLayers()].map(([path, layer]) => {
      assert(layer instanceof QuantizedLinear, path);
      const kind = layer instanceof QuantizedActivationLinear ? layer.activations.kind : "none";
      return [path.slice(path.lastIndexOf(".") + 1), kind];
    }),
  );
}

Deno.test("nibble quantize --activations writes W8A8 and W4A8, which eval and generate run", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const run = (out: string, ...flags: string[]) =>
      nibble("quantize", "--model", BASE, "--out", `${folder}/${out}`, ...flags);
    const w4a8 = await run("w4a8", "--quantize", "int4", "--activations", "dynamic");
    assertEquals(w4a8.code, 0, w4a8.stderr);
    assertMatch(
      w4a8.stdout,
      /: int4 in blocks of 64, inputs in 8 bits, dynamic, the rest in f16$/m,
    );
    assertMatch(w4a8.stdout, /^all +28 +/m);
    const dynamic = await loadModel(device, `${folder}/w4a8`);
    assertEquals(new Set(Object.values(kindsOf(dynamic))), new Set(["dynamic"]));
    const own = await loadModel(device, BASE);
    (await quantizeActivations(own, { weights: "int4" })).commit();
    assertEquals(await logits(dynamic), await logits(own));

    const fixed = await run(
      "w8a8",
      ...["--quantize", "int8", "--activations", "static", "--smooth", "0.5", "--json"],
      ...["--calibration-tokens", "512", "--keep-activations", "down_proj"],
      ...["--dynamic-activations", "o_proj,gate_proj"],
    );
    assertEquals(fixed.code, 0, fixed.stderr);
    const told = JSON.parse(fixed.stdout);
    assertEquals([told.activations, told.smooth, told.layers], ["static", 0.5, []]);
    const loaded = await loadModel(device, `${folder}/w8a8`);
    assertEquals(kindsOf(loaded), {
      q_proj: "static",
      k_proj: "static",
      v_proj: "static",
      o_proj: "dynamic",
      gate_proj: "dynamic",
      up_proj: "static",
      down_proj: "none",
    });
    const flags = ["--model", `${folder}/w8a8`, "--json"];
    const perplexity = async (...own: string[]) => {
      const { code, stdout, stderr } = await nibble(
        "eval",
        ...own,
        "--text",
        HELDOUT,
        "--limit=160",
      );
      assertEquals(code, 0, stderr);
      return JSON.parse(stdout).perplexity;
    };
    const ratio = await perplexity(...flags) / await perplexity("--model", BASE, "--json");
    assert(ratio > 0.99 && ratio < 1.02 && ratio !== 1, `${ratio}`);
    const answer = await nibble("generate", "a large wild cat", ...flags, "--max-new-tokens=4");
    assertEquals(answer.code, 0, answer.stderr);
    const inspected = await nibble("inspect", `${folder}/w8a8`, "--json");
    assertEquals(JSON.parse(inspected.stdout).parameters, own.count().total);
    for (const model of [dynamic, own, loaded]) model.dispose();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize --activations rotated writes static activations that were turned", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await nibble(
      ...["quantize", "--model", BASE, "--out", `${folder}/out`, "--quantize", "int8"],
      ...["--activations", "rotated", "--keep", "0.02", "--calibration-tokens", "512"],
    );
    assertEquals(code, 0, stderr);
    assertMatch(stdout, /: int8 by rows, inputs in 8 bits, rotated, the rest in f16$/m);
    const model = await loadModel(device, `${folder}/out`);
    const own = await loadModel(device, BASE);
    const ids = own.tokenizer!.encode((await readText(HELDOUT)).text).subarray(0, 512);
    (await rotateLayers(own, { text: { ids }, keep: 0.02 })).commit();
    assertEquals(await logits(model), await logits(own));
    const inspected = await nibble("inspect", `${folder}/out`, "--json");
    // Columns in 16 bits are beside a whole weight that is 0 there: its numbers are counted once.
    assertEquals(JSON.parse(inspected.stdout).parameters, own.count().total);
    for (const one of [model, own]) one.dispose();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize takes the ranges that calibrate wrote, and weights that GPTQ chose", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const ranges = `${folder}/ranges.json`;
    const found = await nibble(
      ...["quantize", "calibrate", "--model", BASE, "--tokens", "512", "--kind", "asymmetric"],
      ...["--out", ranges, "--no-report"],
    );
    assertEquals(found.code, 0, found.stderr);
    const { code, stderr } = await nibble(
      ...["quantize", "--model", BASE, "--out", `${folder}/out`, "--quantize", "int8"],
      ...["--method", "gptq", "--calibration-tokens", "512"],
      ...["--activations", "static", "--ranges", ranges],
    );
    assertEquals(code, 0, stderr);
    const model = await loadModel(device, `${folder}/out`);
    for (const [path, layer] of model.linearLayers()) {
      assert(layer instanceof QuantizedActivationLinear, path);
      assert(layer.activations.kind === "static" && layer.activations.zero !== 0, path);
    }
    model.dispose();

    // What a file of ranges cannot give is said before anything is computed.
    const smoothed = `${folder}/smoothed.json`;
    const moved = await nibble(
      ...["quantize", "calibrate", "--model", BASE, "--tokens", "64", "--smooth", "0.5"],
      ...["--out", smoothed, "--no-report"],
    );
    assertEquals(moved.code, 0, moved.stderr);
    const refused: [string[], RegExp][] = [
      [["--activations", "dynamic", "--ranges", ranges], /a range for each token.*leave --ranges/],
      [
        ["--activations", "static", "--ranges", smoothed, "--method", "gptq"],
        /^error: .*smoothed, and gptq chooses integers before; calibrate without --smooth/,
      ],
    ];
    for (const [flags, message] of refused) {
      const own = await nibble(
        ...["quantize", "--model", BASE, "--out", `${folder}/none`, "--quantize", "int8", ...flags],
      );
      assertEquals(own.code, 1);
      assertMatch(own.stderr, message);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize warns of outliers that take a static range from all others", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = await loadModel(device, BASE, { weights: "f32" });
    await enlarge(model, "model.layers.1.input_layernorm", 7, 300);
    await saveModel(model, `${folder}/model`);
    model.dispose();
    const run = async (...flags: string[]) => {
      const { code, stderr } = await nibble(
        ...["quantize", "--model", `${folder}/model`, "--out", `${folder}/out`],
        ...["--quantize", "int8", "--activations", "static", ...flags],
      );
      assertEquals(code, 0, stderr);
      return stderr;
    };
    const text = ["--calibration", HELDOUT, "--calibration-tokens", "128"];
    assertMatch(
      await run(...text),
      /^Warning: in 3 of 28 layers with static inputs \(q_proj,k_proj,v_proj\) an outlier takes .* --smooth 0\.5/m,
    );
    const dynamic = await run(...text, "--dynamic-activations", "q_proj,k_proj,v_proj");
    assert(!dynamic.includes("Warning"), dynamic);
    // Clipped, it takes nothing from others.
    const ranges = `${folder}/ranges.json`;
    const found = await nibble(
      ...["quantize", "calibrate", "--model", `${folder}/model`, "--tokens", "128", "--no-report"],
      ...["--observer", "percentile", "--percentile", "99", "--out", ranges],
    );
    assertEquals(found.code, 0, found.stderr);
    const clipped = await run("--ranges", ranges);
    assert(!clipped.includes("Warning"), clipped);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize rounds inputs of layers that a policy, or a range, put into integers", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const policy = `${folder}/policy.json`;
    const rules = [
      { layers: "q_proj", scheme: "int8" },
      { layers: "o_proj", scheme: "int8-asym-tensor" },
      { layers: "down_proj", scheme: "f32" },
    ];
    await Deno.writeTextFile(policy, JSON.stringify({ rules, otherwise: "int4-g32" }));
    const run = (out: string, ...flags: string[]) =>
      nibble("quantize", "--model", BASE, "--out", `${folder}/${out}`, ...flags);
    const mixed = await run("mixed", "--policy", policy, "--activations", "dynamic");
    assertEquals(mixed.code, 0, mixed.stderr);
    assertMatch(mixed.stdout, /layers as .*policy\.json has them, inputs in 8 bits, dynamic, the/);
    const model = await loadModel(device, `${folder}/mixed`);
    for (const [path, layer] of model.linearLayers()) {
      assertEquals(layer instanceof QuantizedActivationLinear, !path.endsWith("down_proj"), path);
    }
    const ranged = await run(
      "ranged",
      ...["--quantize", "int8", "--per", "tensor", "--activations", "dynamic"],
    );
    assertEquals(ranged.code, 0, ranged.stderr);
    const own = await loadModel(device, `${folder}/ranged`);
    assertEquals(new Set(Object.values(kindsOf(own))), new Set(["dynamic"]));
    await Deno.writeTextFile(policy, JSON.stringify({ rules: [], otherwise: "nf4" }));
    const none = await run("none", "--policy", policy, "--activations", "dynamic");
    assertEquals(none.code, 1);
    assertMatch(none.stderr, /the policy has no layer in integers/);
    for (const one of [model, own]) one.dispose();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize says which options of activations do not go together", async () => {
  const cases: [string[], RegExp][] = [
    [["--smooth", "0.5"], /--smooth.*wanted --activations with it/],
    [["--activations", "dynamic"], /wanted --quantize int8 or int4 with it, found nf4/],
    [
      ["--quantize=int8", "--calibration=x"],
      /wanted --method gptq, awq or split with it, or --activ/,
    ],
    [
      ["--quantize=int8", "--activations=static", "--smooth=0.5", "--method=gptq"],
      /gptq chooses integers before/,
    ],
    [
      ["--quantize=int8", "--activations=static", "--smooth=0.5", "--ranges=x"],
      /factors of their own/,
    ],
    [
      ["--quantize=int8", "--activations=dynamic", "--dynamic-activations=q_proj"],
      /all are: wanted --activations static/,
    ],
    [["--policy=x", "--activations=dynamic", "--smooth=0.5"], /the policy chooses integers before/],
    [["--quantize=int8", "--keep=0.1"], /wanted --method split or --activations rotated/],
    [["--quantize=int8", "--activations=rotated", "--ranges=x"], /static once they are turned/],
    [["--quantize=int8", "--activations=rotated", "--method=gptq"], /chooses integers before/],
  ];
  for (const [flags, message] of cases) {
    const { code, stderr } = await nibble("quantize", "--model", BASE, "--out", "/x", ...flags);
    assertEquals(code, 2, stderr);
    assertMatch(stderr, message);
  }
  const { code, stderr } = await nibble(
    ...["quantize", "--model", BASE, "--out", `${await Deno.makeTempDir()}/out`],
    ...["--quantize", "int8", "--activations", "dynamic", "--keep-activations", "x_proj"],
  );
  assertEquals(code, 1);
  assertMatch(stderr, /x_proj/);
  const twice = await nibble(
    ...["quantize", "--model", BASE, "--out", `${await Deno.makeTempDir()}/out`],
    ...["--quantize", "int8", "--activations", "static", "--calibration-tokens", "64"],
    ...["--keep-activations", "o_proj,down_proj", "--dynamic-activations", "down_proj"],
  );
  assertEquals(twice.code, 1);
  assertMatch(twice.stderr, /both name "model\.layers\.0\.mlp\.down_proj"; leave it out of one/);
});
