// deno-lint-ignore-file camelcase -- the names are those of config.json
import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { addLora, type Lora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { loadAdapter } from "../../../train/adapters/peft.ts";
import { saveGgufAdapter } from "../../../train/adapters/gguf_adapter.ts";
import type { DecomposedLoraOptions, LoraOptions } from "../../../train/adapters/lora_options.ts";
import { GgufFile } from "../../../train/files/gguf.ts";
import { type GgufField, type GgufTensor, writeGguf } from "../../../train/files/gguf_write.ts";
import { saveGguf } from "../../../train/models/gguf_export.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;
const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const IDS = Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % 200);

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  const given = tensor(device, IDS, [1, IDS.length]);
  using logits = device.scope(() => noGrad(() => model.forward(given)));
  return await logits.read() as Float32Array;
}

function fillB(lora: Lora): Lora {
  for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8, 0.1));
  return lora;
}

/**
 * The model's GGUF file with the adapter's file applied as llama.cpp does it, in 64 bits: W + alpha / rank · B · A, where rank is
 * the length of B's rows; in llama.cpp's names and order of rows.
 */
async function applied(path: string, adapter: string): Promise<string> {
  using base = await GgufFile.open(path);
  using lora = await GgufFile.open(adapter);
  const { metadata } = lora;
  assertEquals([metadata.get("general.type"), metadata.get("adapter.type")], ["adapter", "lora"]);
  assertEquals(metadata.get("general.architecture"), base.metadata.get("general.architecture"));
  const alpha = metadata.get("adapter.lora.alpha") as number;
  const tensors = new Map<string, GgufTensor>();
  const left = new Set(lora.entries.keys());
  for (const [name, { shape }] of base.entries) {
    const weight = await base.readFloats(name);
    tensors.set(name, { dtype: "F32", shape, read: () => weight });
    if (!left.delete(`${name}.lora_a`)) continue;
    left.delete(`${name}.lora_b`);
    const a = await lora.readFloats(`${name}.lora_a`);
    const b = await lora.readFloats(`${name}.lora_b`);
    const [rows, columns] = shape;
    const [, rank] = lora.entries.get(`${name}.lora_b`)!.shape;
    for (let i = 0; i < weight.length; i++) {
      const [row, column] = [Math.floor(i / columns), i % columns];
      let sum = 0;
      for (let k = 0; k < rank; k++) sum += b[row * rank + k] * a[k * columns + column];
      weight[i] += alpha / rank * sum;
    }
    assertEquals([a.length, b.length], [rank * columns, rank * rows]);
  }
  assertEquals([...left], []);
  const fields = new Map<string, GgufField>();
  for (const [key, value] of base.metadata) {
    const isCount = typeof value === "number" && Number.isInteger(value);
    fields.set(
      key,
      typeof value === "number" ? { type: isCount ? "u32" : "f32", value } : value as GgufField,
    );
  }
  const out = `${path}.merged.gguf`;
  await writeGguf(out, fields, tensors);
  return out;
}

async function checkApplied(model: LanguageModel, lora: Lora, name: string): Promise<void> {
  await saveGgufAdapter(lora, `${folder}/${name}-adapter.gguf`);
  const wanted = await logitsOf(model);
  mergeAdapter(model);
  assertRelativeError(await logitsOf(model), wanted, 1e-5);
  const found = await loadModel(
    device,
    await applied(`${folder}/${name}.gguf`, `${folder}/${name}-adapter.gguf`),
  );
  assertRelativeError(await logitsOf(found), wanted, 1e-5, name);
  found.dispose();
}

const KINDS: Readonly<Record<string, LoraOptions>> = {
  plain: { r: 4, alpha: 8 },
  rslora: { r: 4, alpha: 8, useRslora: true },
  patterns: {
    r: 4,
    alpha: 6,
    useRslora: true,
    alphaPattern: { "layers.1.self_attn.q_proj": 20, v_proj: 3 },
    rankPattern: { up_proj: 2, k_proj: 6 },
  },
};

for (const base of ["llama", "qwen2"]) {
  for (const [kind, options] of Object.entries(KINDS)) {
    Deno.test(`${base}, ${kind}: llama.cpp's way to apply the file gives the adapter's logits`, async () => {
      const model = await loadModel(device, GOLDEN + base);
      const name = `${base}-${kind}`;
      await saveGguf(model, `${folder}/${name}.gguf`, { type: "f32" });
      await checkApplied(model, fillB(addLora(model, options)), name);
      model.dispose();
    });
  }
}

Deno.test("a trained adapter of PEFT with use_rslora is the same in GGUF", async () => {
  const model = await loadModel(device, `${GOLDEN}llama`);
  await saveGguf(model, `${folder}/peft.gguf`, { type: "f32" });
  const lora = await loadAdapter(model, `${GOLDEN}llama/rslora/end`);
  await checkApplied(model, lora, "peft");
  using file = await GgufFile.open(`${folder}/peft-adapter.gguf`);
  // One alpha, as PEFT's file has it; √r is in B.
  assertEquals(file.metadata.get("adapter.lora.alpha"), 8);
  assertEquals([...file.entries].slice(0, 2), [
    ["blk.0.attn_q.weight.lora_a", { dtype: "F32", shape: [4, 64], begin: 0, end: 1024 }],
    ["blk.0.attn_q.weight.lora_b", { dtype: "F32", shape: [64, 4], begin: 1024, end: 2048 }],
  ]);
});

const TINY: Json = {
  model_type: "llama",
  vocab_size: 80,
  hidden_size: 32,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 4,
};

Deno.test("adapters that llama.cpp cannot apply are refused, and nothing is written", async () => {
  const path = `${folder}/no.gguf`;
  const refuses = async (
    options: LoraOptions | DecomposedLoraOptions,
    text: string,
    json = TINY,
  ) => {
    const model = randomModel(device, json);
    const lora = await addLora(model, options as DecomposedLoraOptions);
    const { message } = await assertRejects(() => saveGgufAdapter(lora, path), TypeError, text);
    const hasHint = message.endsWith("or nibble export --merge)");
    assertEquals(hasHint, json === TINY, message);
    await assertRejects(() => Deno.stat(path), Deno.errors.NotFound, "");
    model.dispose();
  };
  await refuses({ r: 2, useDora: true }, "found DoRA, which scales rows");
  await refuses({ r: 2, modulesToSave: ["norm"] }, "modules that were trained whole (norm)");
  await refuses({ r: 2, init: "olora" }, 'init "olora", which took a part');
  const gpt2 = { model_type: "gpt2", n_embd: 32, n_head: 4, n_layer: 1, n_positions: 8 };
  await refuses({ r: 2 }, 'architecture "gpt2", wanted one of', { ...gpt2, vocab_size: 80 });
});
