import { FourBitTensor } from "../../kernels/quant/four_bit.ts";
import { SafetensorsFile } from "../../train/files/safetensors.ts";
import { loadModel, randomModel } from "../../train/models/load.ts";
import { saveModel, type SaveModelOptions } from "../../train/models/save.ts";
import { parseScheme } from "../../train/quant/policy.ts";
import { quantizeLayers } from "../../train/quant/weight_only.ts";
import { QuantizedLinear } from "../../train/nn/linear.ts";
import { assert, assertEquals, assertMatch, assertRelativeError } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";

const model = randomModel(device, {
  model_type: "llama",
  vocab_size: 80,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
}, { seed: 1 });

async function withModel(
  body: (folder: string) => Promise<void>,
  options: SaveModelOptions = {},
): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await saveModel(model, `${folder}/model`, options);
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

Deno.test("nibble quantize writes a model in 4 bits, and says what it cost", () =>
  withModel(async (folder) => {
    const flags = ["--model", `${folder}/model`, "--out", `${folder}/out`];
    const { code, stdout, stderr } = await nibble("quantize", ...flags);
    assertEquals([code, stderr], [0, ""]);
    for (
      const line of [
        /^layer +layers +weights +mean squared error +relative error$/m,
        // NF4 in blocks of 64 leaves 9.2 % of normal weights.
        /^down_proj +2 +16\.4 k +\S+ +9\.\d %$/m,
        /^all +14 +/m,
        /^bits per quantized weight +32\.000 +4\.500$/m,
        /: nf4 in blocks of 64, the rest in f32$/m,
      ]
    ) assertMatch(stdout, line);

    const back = await loadModel(device, `${folder}/out`);
    for (const [path, layer] of back.linearLayers()) {
      assert(layer instanceof QuantizedLinear && layer.weight instanceof FourBitTensor, path);
      assertEquals(layer.weight.scheme, "nf4");
    }
    assertEquals(back.count().total, model.count().total);
    back.dispose();
  }));

Deno.test("nibble quantize --json: errors and sizes are those of the files, what stays plain keeps its type", () =>
  withModel(async (folder) => {
    const flags = ["--model", `${folder}/model`, "--out", `${folder}/out`, "--quantize", "fp4"];
    const { code, stdout } = await nibble(
      "quantize",
      ...flags,
      "--double-quant",
      "--block-size=128",
      "--json",
    );
    assertEquals(code, 0);
    const found = JSON.parse(stdout);
    assertEquals([found.quantize, found.doubleQuant, found.blockSize], ["fp4", true, 128]);
    const size = async (name: string) =>
      (await Deno.stat(`${folder}/${name}/model.safetensors`)).size;
    assertEquals(found.before, { fileBytes: await size("model"), bitsPerWeight: 16 });
    assertEquals(found.after.fileBytes, await size("out"));
    assert(found.after.bitsPerWeight > 4.06 && found.after.bitsPerWeight < 4.1);

    using before = await SafetensorsFile.open(`${folder}/model/model.safetensors`);
    using after = await SafetensorsFile.open(`${folder}/out/model.safetensors`);
    const name = "model.embed_tokens.weight";
    assertEquals(after.entries.get(name)?.dtype, "BF16");
    assertEquals(await after.read(name), await before.read(name));

    const back = await loadModel(device, `${folder}/out`);
    const errors = { squares: 0, errors: 0, weights: 0 };
    for (const [path, layer] of back.linearLayers()) {
      if (!path.endsWith(".v_proj")) continue;
      const weight = await before.readFloats(`${path}.weight`);
      const decoded = await layer.dense().read();
      for (let i = 0; i < weight.length; i++) {
        errors.squares += weight[i] ** 2;
        errors.errors += (weight[i] - decoded[i]) ** 2;
      }
      errors.weights += weight.length;
    }
    const own = found.layers.find(({ type }: { type: string }) => type === "v_proj");
    assertEquals([own.layers, own.weights], [2, errors.weights]);
    assertRelativeError([own.meanSquaredError], [errors.errors / errors.weights], 1e-12);
    assertRelativeError([own.relativeError], [Math.sqrt(errors.errors / errors.squares)], 1e-12);
    assertEquals(found.layers.at(-1).type, "all");
    back.dispose();
  }, { dtype: "bf16" }));

Deno.test("nibble quantize writes integers too, which inspect counts and loadModel reads", () =>
  withModel(async (folder) => {
    for (const [type, bits, block] of [["int8", 8, null], ["int4", 4, 64]] as const) {
      const flags = ["--model", `${folder}/model`, "--out", `${folder}/${type}`, "--json"];
      const { code, stdout } = await nibble("quantize", ...flags, "--quantize", type);
      assertEquals(code, 0);
      const { after, blockSize, layers } = JSON.parse(stdout);
      assertEquals(blockSize, block);
      assert(after.bitsPerWeight > bits && after.bitsPerWeight < bits + 0.7);
      assert(layers.at(-1).relativeError < (type === "int8" ? 0.01 : 0.12));
      const wanted = await loadModel(device, `${folder}/model`, { quantize: type });
      const back = await loadModel(device, `${folder}/${type}`);
      const layersOf = new Map(back.linearLayers());
      for (const [path, layer] of wanted.linearLayers()) {
        const other = layersOf.get(path)!;
        assert(other instanceof QuantizedLinear);
        assertEquals(await other.dense().read(), await layer.dense().read());
      }
      const inspected = await nibble("inspect", `${folder}/${type}`, "--json");
      assertEquals(JSON.parse(inspected.stdout).parameters, model.count().total);
      const again = await nibble(
        ...["quantize", "--model", `${folder}/${type}`, "--out", `${folder}/again`],
      );
      assertEquals(again.code, 1);
      assertMatch(again.stderr, /is in integers already, wanted plain weights/);
    }
    const flags = ["--model", `${folder}/model`, "--out", `${folder}/x`, "--quantize", "int8"];
    const nested = await nibble("quantize", ...flags, "--double-quant");
    assertEquals(nested.code, 1);
    assertMatch(nested.stderr, /int8 has no scales to quantize again/);
  }));

Deno.test("nibble quantize --range and --per write integers of other ranges", () =>
  withModel(async (folder) => {
    const plain = await loadModel(device, `${folder}/model`, { weights: "f32" });
    const cases: [string[], string][] = [
      [["int8", "--range", "asymmetric", "--per", "tensor"], "int8-asym-tensor"],
      [["int8", "--range", "symmetric-full"], "int8-full"],
      [["int4", "--per", "channel"], "int4-channel"],
      [["int4", "--range", "symmetric", "--block-size", "32"], "int4-sym-g32"],
    ];
    for (const [flags, name] of cases) {
      const model = ["--model", `${folder}/model`, "--out", `${folder}/${name}`];
      const { code, stdout, stderr } = await nibble("quantize", ...model, "--quantize", ...flags);
      assertEquals(code, 0, stderr);
      assertMatch(stdout, new RegExp(`int[48] ${name.includes("g32") ? "in blocks of 32" : "by"}`));
      const made = await quantizeLayers(plain, parseScheme(name)!);
      const back = await loadModel(device, `${folder}/${name}`);
      const layersOf = new Map(back.linearLayers());
      for (const [path, layer] of plain.linearLayers()) {
        const wanted = await layer.dense().read();
        assertEquals(await layersOf.get(path)!.dense().read(), wanted, `${name}: ${path}`);
      }
      made.restore();
      back.dispose();
    }
    plain.dispose();
    const refused: [string[], RegExp][] = [
      [["--range", "symmetric"], /--range: it is of integers: wanted --quantize int8/],
      [
        ["--quantize", "int4", "--per", "tensor", "--block-size", "32"],
        /--per: found --block-size/,
      ],
      [
        ["--quantize", "int4", "--method", "gptq", "--per", "tensor"],
        /--per: gptq chooses its own/,
      ],
      [["--quantize", "int8", "--range", "full"], /found "full", wanted one of symmetric/],
    ];
    for (const [flags, message] of refused) {
      const model = ["--model", `${folder}/model`, "--out", `${folder}/no`];
      const { code, stderr } = await nibble("quantize", ...model, ...flags);
      assertEquals(code, 2);
      assertMatch(stderr, message);
    }
  }));

Deno.test("nibble quantize --policy writes each layer as the rules have it", () =>
  withModel(async (folder) => {
    const policy = `${folder}/policy.json`;
    const rules = [{ layers: "q_proj", scheme: "int8" }, { layers: "o_proj", scheme: "f32" }];
    await Deno.writeTextFile(policy, JSON.stringify({ rules, otherwise: "int4-g32" }));
    const flags = ["--model", `${folder}/model`, "--policy", policy];
    const run = (...args: string[]) => nibble("quantize", ...flags, ...args);
    const { code, stdout, stderr } = await run("--out", `${folder}/mixed`, "--json");
    assertEquals([code, stderr.includes("error")], [0, false], stderr);
    const { layers, after } = JSON.parse(stdout);
    const errorOf = (type: string) =>
      layers.find((own: { type: string }) => own.type === type).relativeError;
    assertEquals(errorOf("o_proj"), 0);
    assert(errorOf("q_proj") < 0.01 && errorOf("up_proj") > 0.05);
    const back = await loadModel(device, `${folder}/mixed`);
    let [bytes, weights] = [0, 0];
    for (const [path, layer] of back.linearLayers()) {
      const scheme = layer instanceof QuantizedLinear ? layer.weight.scheme : "f32";
      assertEquals(
        scheme,
        path.endsWith("q_proj") ? "int8" : path.endsWith("o_proj") ? "f32" : "int4",
      );
      bytes += layer.weightBytes;
      weights += layer.shape[0] * layer.shape[1];
    }
    assertEquals(after.bitsPerWeight, 8 * bytes / weights);

    const beside = await run("--out", `${folder}/x`, "--double-quant");
    assertEquals(beside.code, 2);
    assertMatch(beside.stderr, /leave --quantize, --double-quant and --block-size out/);
    // What would be chosen anyway was said all the same.
    const typed = await run("--out", `${folder}/x`, "--quantize", "nf4");
    assertEquals(typed.code, 2);
    assertMatch(typed.stderr, /--policy: its rules say how layers are quantized: leave --quantize/);
    const chosen = await run("--out", `${folder}/x`, "--method", "gptq");
    assertEquals(
      [chosen.code, chosen.stderr],
      [2, "error: Cannot read option --method: leave it out with --policy\n"],
    );
    await Deno.writeTextFile(policy, JSON.stringify({ rules, otherwise: "nf4" }));
    assertEquals((await run("--out", `${folder}/both`)).code, 0);
    const both = await loadModel(device, `${folder}/both`);
    const schemes = [...both.linearLayers()].map(([, own]) =>
      own instanceof QuantizedLinear ? own.weight.scheme : "f32"
    );
    assertEquals([...new Set(schemes)].sort(), ["f32", "int8", "nf4"]);
    const again = await nibble(
      ...["quantize", "--model", `${folder}/both`, "--out", `${folder}/y`, "--quantize", "int4"],
    );
    assertEquals(again.code, 1);
    assertMatch(again.stderr, /is in integers already, wanted plain weights/);
  }));

Deno.test("nibble quantize says what is wrong in one line, and leaves what was there", () =>
  withModel(async (folder) => {
    await Deno.mkdir(`${folder}/notes`);
    await Deno.writeTextFile(`${folder}/notes/mine.txt`, "mine");
    await Deno.writeTextFile(`${folder}/file`, "mine");
    await saveModel(await loadModel(device, `${folder}/model`, { quantize: "nf4" }), `${folder}/4`);
    const earlier = await Deno.readFile(`${folder}/4/model.safetensors`);
    await saveModel(model, `${folder}/broken`);
    await Deno.truncate(`${folder}/broken/model.safetensors`, 5000);
    const cases: [model: string, out: string, message: RegExp][] = [
      ["missing", "out", /there is no such folder; check the path/],
      ["file", "out", /Cannot open the model in/],
      ["notes", "out", /it has neither model\.safetensors nor/],
      ["broken", "4", /fetch it again/],
      ["4", "out", /is in 4 bits already, wanted plain weights/],
      ["model", "notes", /found other files there, such as "mine\.txt"/],
      ["model", "file", /found a file of that name, wanted a folder/],
      ["model", "model", /it is the folder that the model is read from/],
    ];
    for (const [from, to, message] of cases) {
      const flags = ["--model", `${folder}/${from}`, "--out", `${folder}/${to}`];
      const { code, stdout, stderr } = await nibble("quantize", ...flags);
      assertEquals([code, stdout], [1, ""], stderr);
      assertMatch(stderr, /^error: Cannot .*\n$/);
      assertMatch(stderr, message);
    }
    assertEquals(await Deno.readFile(`${folder}/4/model.safetensors`), earlier);
    const names = Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();
    assertEquals(names, ["4", "broken", "file", "model", "notes"]);

    const { code, stderr } = await nibble("quantize", "--model", `${folder}/model`);
    assertEquals(code, 2);
    assertMatch(stderr, /^error: .*--out/);
  }));

Deno.test("nibble quantize replaces an earlier model folder, and keeps what else is in it", () =>
  withModel(async (folder) => {
    await saveModel(model, `${folder}/out`, { dtype: "f16" });
    await Deno.writeTextFile(`${folder}/out/README.md`, "mine");
    const flags = ["--model", `${folder}/model`, "--out", `${folder}/out`];
    const { code, stderr } = await nibble("quantize", ...flags, "--double-quant");
    assertEquals([code, stderr], [0, ""]);
    assertEquals(await Deno.readTextFile(`${folder}/out/README.md`), "mine");
    using file = await SafetensorsFile.open(`${folder}/out/model.safetensors`);
    assertEquals(file.entries.get("model.layers.0.mlp.up_proj.weight.absmax")?.dtype, "U8");
  }));

Deno.test("nibble quantize --method gptq, awq, hqq and split write weights that load again", async () => {
  const base = new URL("../../assets/base", import.meta.url).pathname;
  const folder = await Deno.makeTempDir();
  try {
    const cases = [["gptq", "int3"], ["awq", "int4"], ["hqq", "int4"], ["split", "int2"]];
    for (const [method, type] of cases) {
      const out = `${folder}/${method}`;
      const tokens = method === "hqq" ? [] : ["--calibration-tokens", "256"];
      const flags = ["--quantize", type, "--method", method, ...tokens];
      if (method === "split") flags.push("--keep", "0.05");
      const { code, stdout, stderr } = await nibble(
        ...["quantize", "--model", base, "--out", out, ...flags, "--json"],
      );
      assertEquals(code, 0);
      assertEquals(/^Warning: calibrated on definitions/m.test(stderr), method !== "hqq", stderr);
      const told = JSON.parse(stdout);
      assertEquals([told.method, told.quantize, told.blockSize], [method, type, 64]);
      assertEquals(told.keep, method === "split" ? 0.05 : undefined);
      assertEquals(told.layers.length > 0, method !== "awq");
      const loaded = await loadModel(device, out);
      const schemes = [...loaded.linearLayers()].map(([, layer]) =>
        layer instanceof QuantizedLinear && layer.weight.scheme
      );
      const scheme = method === "split" ? "int2+kept" : type;
      assert(schemes.every((own) => own === scheme), method);
      const bits = 8 * [...loaded.linearLayers()].reduce((sum, [, own]) =>
        sum + own.weightBytes, 0) /
        [...loaded.linearLayers()].reduce((sum, [, { shape: [n, k] }]) => sum + n * k, 0);
      assertEquals(told.after.bitsPerWeight, bits);
      if (method === "split") {
        const inspected = await nibble("inspect", out, "--json");
        assertEquals(JSON.parse(inspected.stdout).parameters, loaded.count().total);
      }
      loaded.dispose();
    }
    const refused: [string[], RegExp][] = [
      [
        ["--method", "hqq", "--calibration", "x"],
        /--calibration: wanted --method gptq, awq or split/,
      ],
      [["--calibration-tokens", "33"], /--calibration-tokens: wanted --method gptq, awq or split/],
      [["--method", "hqq", "--quantize", "int8"], /hqq gives int4, int3 or int2/],
      [["--keep", "0.1"], /--keep: wanted --method split or --activations rotated with it/],
      [["--method", "split", "--quantize", "int4", "--double-quant"], /int4 has no scales to/],
      [["--method", "split", "--quantize", "int8", "--activations", "dynamic"], /in floats/],
    ];
    for (const [flags, message] of refused) {
      const { code, stderr } = await nibble(
        ...["quantize", "--model", base, "--out", folder, ...flags],
      );
      assertEquals(code, 2);
      assertMatch(stderr, message);
    }
    const wrong = await nibble("quantize", "--model", base, "--out", folder, "--method", "awq");
    assertEquals(wrong.code, 2);
    assertMatch(wrong.stderr, /awq gives int4, int3 or int2: wanted --quantize with it, found nf4/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
