import { noGrad } from "../../core/autograd.ts";
import { tensor } from "../../core/tensor.ts";
import { addLora } from "../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../train/adapters/peft.ts";
import { loadModel, type LoadOptions, randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { Linear, QuantizedLinear } from "../../train/nn/linear.ts";
import { assert, assertEquals, assertMatch, assertRelativeError } from "../assert.ts";
import { device, randomNumbers } from "../device.ts";
import { nibble } from "./spawn.ts";

const base = randomModel(device, {
  model_type: "llama",
  vocab_size: 80,
  hidden_size: 64,
  intermediate_size: 128,
  num_hidden_layers: 2,
  num_attention_heads: 4,
}, { seed: 1 });
const IDS = tensor(device, Int32Array.from({ length: 16 }, (_, i) => (7 * i + 3) % 80), [2, 8]);

/** A folder with `model`, and `adapter` on it. */
async function withAdapter(body: (folder: string) => Promise<void>): Promise<void> {
  const folder = await Deno.makeTempDir();
  try {
    await saveModel(base, `${folder}/model`);
    const lora = addLora(base, { r: 4, targetModules: ["q_proj", "up_proj"], useDora: true });
    for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 0.05));
    await saveAdapter(lora, `${folder}/adapter`);
    lora.remove();
    await body(folder);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
}

/** The logits of a folder's model, with the adapter beside it or without. */
async function logits(folder: string, adapter?: string, options: LoadOptions = {}) {
  const model = await loadModel(device, folder, options);
  if (adapter) await loadAdapter(model, adapter);
  const found = await noGrad(() => model.forward(IDS)).read();
  model.dispose();
  return found;
}

function flagsOf(folder: string, out: string): string[] {
  return [
    ...["--model", `${folder}/model`, "--adapter", `${folder}/adapter`],
    ...["--out", `${folder}/${out}`],
  ];
}

Deno.test("nibble merge writes a plain model that computes what the adapter's does", () =>
  withAdapter(async (folder) => {
    const wanted = await logits(`${folder}/model`, `${folder}/adapter`);
    const { code, stdout, stderr } = await nibble("merge", ...flagsOf(folder, "f32"));
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^Written to .*\/f32: .*B, all in f32\n$/);
    assertRelativeError(await logits(`${folder}/f32`), wanted, 1e-5);

    const half = await nibble("merge", ...flagsOf(folder, "bf16"), "--dtype", "bf16", "--json");
    const found = JSON.parse(half.stdout);
    assertEquals([found.written, found.cost], ["bf16", null]);
    assertEquals(found.fileBytes, (await Deno.stat(`${folder}/bf16/model.safetensors`)).size);
    assertRelativeError(await logits(`${folder}/bf16`), wanted, 2e-2);
    const config = JSON.parse(await Deno.readTextFile(`${folder}/bf16/config.json`));
    assertEquals([config.dtype, config.quantization_config], ["bfloat16", undefined]);
  }));

Deno.test("nibble merge --base-quantize: an adapter of 4 bits is merged into these, decoded", () =>
  withAdapter(async (folder) => {
    const scheme = { quantize: "nf4", doubleQuant: true } as const;
    const wanted = await logits(`${folder}/model`, `${folder}/adapter`, scheme);
    const flags = ["--base-quantize", "nf4", "--double-quant"];
    const { code, stderr } = await nibble("merge", ...flagsOf(folder, "out"), ...flags);
    assertEquals([code, stderr], [0, ""]);
    assertRelativeError(await logits(`${folder}/out`), wanted, 1e-5);
    const model = await loadModel(device, `${folder}/out`);
    for (const [, layer] of model.linearLayers()) assert(layer instanceof Linear);
  }));

Deno.test("nibble merge --quantize writes 4 bits, and warns by what it measured", () =>
  withAdapter(async (folder) => {
    const flags = [...flagsOf(folder, "out"), "--quantize", "nf4"];
    const { code, stdout, stderr } = await nibble("merge", ...flags);
    assertEquals([code, stderr], [0, ""]);
    for (
      const line of [
        /^layer +layers +weights +moved by the adapter +by 4 bits +of the adapter left$/m,
        /^q_proj +2 +8\.19 k +\d+\.\d+ % +9\.\d+ % +\d+\.\d+ %$/m,
        /^down_proj +2 +16\.4 k +0\.0+ % +9\.\d+ % *$/m,
        /^Warning: the adapter moved the weights by .*, and 4 bits by 9\.\d+ %, which left \d+\.\d %/m,
        /Where that is too much, merge with --dtype f16, or keep the adapter beside/,
        /: .*B, nf4, the rest in f32$/m,
      ]
    ) assertMatch(stdout, line);
    const model = await loadModel(device, `${folder}/out`);
    for (const [, layer] of model.linearLayers()) assert(layer instanceof QuantizedLinear);

    const { cost, written } = JSON.parse((await nibble("merge", ...flags, "--json")).stdout);
    assertEquals(written, "nf4");
    const all = cost.layers.at(-1);
    assertEquals([all.type, all.layers], ["all", 14]);
    assert(all.error > 0.085 && all.error < 0.1);
    assert(cost.logitsUpdate > 0 && cost.logitsError > 0);
    // The measured error of the logits is of the size that another text has.
    const wanted = await logits(`${folder}/model`, `${folder}/adapter`);
    const found = await logits(`${folder}/out`);
    const apart = Math.hypot(...found.map((value, i) => value - wanted[i]));
    const share = apart / Math.hypot(...wanted) / cost.logitsError;
    assert(share > 0.5 && share < 2, `${share}`);
  }));

Deno.test("nibble merge says what is wrong, and writes nothing then", () =>
  withAdapter(async (folder) => {
    await Deno.mkdir(`${folder}/notes`);
    await Deno.writeTextFile(`${folder}/notes/mine.txt`, "mine");
    const cases: [model: string, adapter: string, out: string, message: RegExp][] = [
      ["model", "adapter", "notes", /found other files there, such as "mine\.txt"/],
      ["model", "adapter", "model", /it is the folder that the model is read from/],
      ["model", "notes", "out", /adapter_config\.json/],
      ["notes", "adapter", "out", /config\.json/],
    ];
    for (const [from, adapter, to, message] of cases) {
      const { code, stdout, stderr } = await nibble(
        "merge",
        ...["--model", `${folder}/${from}`, "--adapter", `${folder}/${adapter}`],
        ...["--out", `${folder}/${to}`],
      );
      assertEquals([code, stdout], [1, ""], stderr);
      assertMatch(stderr, /^error: Cannot .*\n/);
      assertMatch(stderr, message);
    }
    const { code, stderr } = await nibble("merge", ...flagsOf(folder, "out"), "--double-quant");
    assertEquals(code, 2);
    assertMatch(stderr, /--quantize or --base-quantize does it/);
    const names = Array.from(Deno.readDirSync(folder), ({ name }) => name).sort();
    assertEquals(names, ["adapter", "model", "notes"]);
  }));
