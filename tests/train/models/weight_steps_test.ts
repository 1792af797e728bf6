import { noGrad } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { IntegerTensor } from "../../../kernels/quant/integer.ts";
import type { Sequence } from "../../../train/data/dataset.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { STEPS_FILE } from "../../../train/files/weight_steps.ts";
import { Trainer } from "../../../train/loop.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { convertQat } from "../../../train/quant/qat_convert.ts";
import type { QatOptions, QatWeightOptions } from "../../../train/quant/qat_options.ts";
import { prepareQat } from "../../../train/quant/qat.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

/** 80 columns: groups of 64, 32 and 24 leave a shorter one. */
const LLAMA: Json = {
  "model_type": "llama",
  "vocab_size": 96,
  "hidden_size": 80,
  "intermediate_size": 64,
  "num_hidden_layers": 1,
  "num_attention_heads": 4,
  "max_position_embeddings": 32,
  "initializer_range": 0.1,
};
const GPT2: Json = {
  "model_type": "gpt2",
  "vocab_size": 96,
  "n_embd": 32,
  "n_layer": 1,
  "n_head": 2,
  "n_positions": 32,
  "initializer_range": 0.1,
};

const SEQUENCES: Sequence[] = Array.from({ length: 8 }, (_, i) => {
  const ids = Int32Array.from(randomIntegers(16, 96, i));
  return { ids, labels: ids.map((id) => (id + 1) % 96) };
});

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  const ids = tensor(device, Int32Array.from({ length: 24 }, (_, i) => (7 * i + 3) % 96), [2, 12]);
  using logits = device.scope(() => noGrad(() => device.keep(model.forward(ids))));
  return await logits.read() as Float32Array;
}

function integersAt(model: LanguageModel, path: string): IntegerTensor {
  const layer = new Map(model.linearLayers()).get(path);
  assert(layer instanceof QuantizedLinear && layer.weight instanceof IntegerTensor, path);
  return layer.weight;
}

/** A model that was trained and converted, in a folder as a plain one. */
async function savedPlain(
  folder: string,
  json: Json,
  weights: QatOptions["weights"],
  dtype: "f32" | "f16" | "bf16" = "f32",
): Promise<LanguageModel> {
  const model = randomModel(device, json, { seed: 3, trainable: "all" });
  await prepareQat(model, { weights });
  {
    const options = { steps: 4, batchSize: 2, length: 16, learningRate: 3e-3, seed: 1 };
    using trainer = new Trainer(model, SEQUENCES, options);
    for await (const { loss } of trainer.run()) assert(Number.isFinite(loss));
  }
  await convertQat(model);
  await saveModel(model, folder, { dequantize: true, steps: true, dtype });
  return model;
}

Deno.test("the rounded weights, saved plain, give the same whole numbers and steps again, learnt or not", async () => {
  const folder = await Deno.makeTempDir();
  const cases: [QatWeightOptions, "f32" | "f16" | "bf16"][] = [
    [{}, "f32"],
    [{ bits: 4, groupSize: 32 }, "f16"],
    [{ bits: 8 }, "f32"],
    [{ bits: 8, kind: "asymmetric", step: "learnt" }, "f16"],
    [{ bits: 3, groupSize: 24, step: "learnt" }, "bf16"],
    [{ bits: 2, kind: "asymmetric", step: "learnt", share: "tensor" }, "f32"],
  ];
  for (const [weights, dtype] of cases) {
    const what = JSON.stringify([weights, dtype]);
    for (const json of weights.step === "learnt" ? [LLAMA] : [LLAMA, GPT2]) {
      const model = await savedPlain(folder, json, weights, dtype);
      const type = `int${weights.bits ?? 4}` as "int4";
      const again = await loadModel(device, folder, { quantize: type });
      for (const [path] of model.linearLayers()) {
        const [one, other] = [again, model].map((own) => integersAt(own, path));
        assertEquals(await one.packed.read(), await other.packed.read(), `${what} ${path}`);
        assertEquals(await one.scales.read(), await other.scales.read(), `${what} ${path}`);
        assertEquals([one.groupSize, one.zeroBits], [other.groupSize, other.zeroBits], what);
      }
      assertEquals(again.notes, []);
      if (dtype === "f32") assertEquals(await logitsOf(again), await logitsOf(model), what);
      for (const own of [model, again]) own.dispose();
    }
  }
  await Deno.remove(folder, { recursive: true });
});

Deno.test("steps that are missing, of other types, or of weights that changed since, are told of", async () => {
  const folder = await Deno.makeTempDir();
  const learnt = { bits: 3, step: "learnt", groupSize: 16 } as const;
  const choose = (path: string) => path.endsWith("down_proj") ? null : learnt;
  const model = await savedPlain(folder, LLAMA, choose);
  const load = (options: Parameters<typeof loadModel>[2]) => loadModel(device, folder, options);
  const kinds = async (options: Parameters<typeof loadModel>[2]) => {
    const own = await load(options);
    const schemes = [...own.linearLayers()].map(([, layer]) =>
      layer instanceof QuantizedLinear ? layer.weight.scheme : "f32"
    );
    return { schemes: [...new Set(schemes)].sort(), notes: own.notes.join() };
  };
  // What was left as it is stays so.
  assertEquals(await kinds({ quantize: "int3" }), { schemes: ["f32", "int3"], notes: "" });
  assertEquals(await kinds({}), { schemes: ["f32"], notes: "" });
  const note = "The weights lie on the steps of int3 in groups of 16, and were rounded once more";
  for (const options of [{ quantize: "int4" }, { quantize: "int3", blockSize: 32 }] as const) {
    const { schemes, notes } = await kinds(options);
    assertEquals(schemes, [options.quantize]);
    assert(notes.startsWith(note), notes);
  }
  const file = `${folder}/${STEPS_FILE}`;
  const bytes = await Deno.readFile(file);
  const text = new TextDecoder("latin1").decode(bytes);
  const damage = async (from: string, to: string, message: string) => {
    const at = text.indexOf(from);
    assert(at > 0 && from.length === to.length, from);
    const changed = bytes.slice();
    changed.set(new TextEncoder().encode(to), at);
    await Deno.writeFile(file, changed);
    await assertRejects(() => load({ quantize: "int3" }), Error, message);
  };
  await damage("weight steps", "height steps", 'found "nibble height steps" in version "1"');
  await damage("int3-g16", "int3-x16", "wanted names of weights by");
  await damage("int3-g16", "int3-g27", "is said to have groups of 27");
  await Deno.remove(file);
  const { notes } = await kinds({ quantize: "int3" });
  assertMatch(notes, /on steps that "weight_steps.nibble" has.*put that file into the folder/);

  await Deno.writeFile(file, bytes);
  const other = randomModel(device, LLAMA, { seed: 5 });
  const config = await Deno.readTextFile(`${folder}/config.json`);
  await assertRejects(
    () => saveModel(model, folder, { steps: true }),
    TypeError,
    "leave steps out",
  );
  // A plain model in the same folder does not take them for its own.
  await saveModel(other, folder);
  assertEquals(await kinds({ quantize: "int3" }), { schemes: ["int3"], notes: "" });
  await Deno.writeTextFile(`${folder}/config.json`, config);
  await assertRejects(() => load({ quantize: "int3" }), RangeError, "the model was changed since");
  for (const own of [model, other]) own.dispose();
  await Deno.remove(folder, { recursive: true });
});
