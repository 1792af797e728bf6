import { noGrad } from "../../core/autograd.ts";
import { tensor } from "../../core/tensor.ts";
import { loadAdapter } from "../../train/adapters/peft.ts";
import { GgufFile } from "../../train/files/gguf.ts";
import { loadModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertMatch, assertRelativeError } from "../assert.ts";
import { device } from "../device.ts";
import { nibble } from "./spawn.ts";
import { assertFails, tinyFiles } from "./tiny_files.ts";

const folder = await tinyFiles();

async function logits(path: string, adapter?: string): Promise<Float32Array> {
  const model = await loadModel(device, path);
  if (adapter) await loadAdapter(model, adapter);
  const ids = tensor(device, Int32Array.from({ length: 12 }, (_, i) => 7 * i + 3), [1, 12]);
  const found = await noGrad(() => model.forward(ids)).read() as Float32Array;
  model.dispose();
  return found;
}

Deno.test("nibble export writes a model with its tokenizer, in the type that is asked for", async () => {
  const wanted = await logits(`${folder}/model`);
  const flags = ["--model", `${folder}/model`, "--out", `${folder}/model.gguf`];
  const { code, stdout, stderr } = await nibble("export", ...flags);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^type +tensors +size$/m);
  assertMatch(stdout, /^Q8_0 +9 +\d+\.?\d* kB$/m);
  assertMatch(stdout, /^Written to .*\/model\.gguf: the model, \d+\.?\d* kB, in q8_0$/m);
  assertRelativeError(await logits(`${folder}/model.gguf`), wanted, 0.1);

  const f32 = await nibble("export", ...flags, "--type", "f32", "--json");
  const { out, type, what, fileBytes, types } = JSON.parse(f32.stdout);
  assertEquals([type, what, types.length], ["f32", "model", 1]);
  assertEquals(fileBytes, (await Deno.stat(out)).size);
  assertEquals(await logits(out), wanted);
  const model = await loadModel(device, out);
  assertEquals(model.tokenizer!.encode("a cat<end>").at(-1), model.tokenizer!.eosId);
});

Deno.test("nibble export --merge and --adapter-only: the adapter in the model, or alone", async () => {
  const adapter = ["--adapter", `${folder}/adapter`];
  const model = ["--model", `${folder}/model`];
  const merged = `${folder}/merged.gguf`;
  const flags = [...model, ...adapter, "--merge", "--type", "f32", "--out", merged];
  const { code, stderr } = await nibble("export", ...flags);
  assertEquals([code, stderr], [0, ""]);
  assertRelativeError(await logits(merged), await logits(`${folder}/model`, adapter[1]), 1e-5);

  const alone = `${folder}/adapter.gguf`;
  const only = await nibble("export", ...model, ...adapter, "--adapter-only", "--out", alone);
  assertEquals([only.code, only.stderr], [0, ""]);
  assertMatch(only.stdout, /: the adapter, \d+\.?\d* kB, in f32$/m);
  using file = await GgufFile.open(alone);
  assertEquals(file.entries.size, 14);
  assert(file.entries.has("blk.0.ffn_down.weight.lora_b"));
});

Deno.test("nibble export says what is wrong in one line, and leaves an earlier file as it was", async () => {
  await Deno.mkdir(`${folder}/folder.gguf`);
  await Deno.mkdir(`${folder}/empty`);
  const out = `${folder}/earlier.gguf`;
  await Deno.writeTextFile(out, "earlier");
  const model = ["--model", `${folder}/model`];
  const adapter = ["--adapter", `${folder}/adapter`];
  const cases: [args: string[], code: number, message: RegExp][] = [
    [[...model, "--out", `${folder}/folder.gguf`], 1, /found a folder of that name, wanted a file/],
    [["--model", out, "--out", out], 1, /it is the file that the model is read from/],
    [["--model", `${folder}/empty`, "--out", out], 1, /config\.json/],
    [[...model, "--adapter", `${folder}/empty`, "--merge", "--out", out], 1, /adapter_config/],
    [[...model, "--out", `${folder}/out`], 2, /--out must end in \.gguf/],
    [[...model, ...adapter, "--out", out], 2, /say one of --merge \(into the model\) and/],
    [[...model, ...adapter, "--merge", "--adapter-only", "--out", out], 2, /say one of --merge/],
    [[...model, "--merge", "--out", out], 2, /--merge and --adapter-only say what is done with/],
    [
      [...model, ...adapter, "--adapter-only", "--type", "f16", "--out", out],
      2,
      /an adapter alone is written in f32/,
    ],
    [[...model, "--out", out, "--type", "q5_k"], 2, /--type/],
  ];
  for (const [args, code, message] of cases) {
    await assertFails(folder, ["export", ...args], { code, message });
  }
});
