// deno-lint-ignore-file camelcase -- the names are those of config.json
import { noGrad } from "../../../core/autograd.ts";
import type { Tensor } from "../../../core/tensor.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { transpose } from "../../../kernels/pointwise/transpose.ts";
import { addLora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRelativeError, relativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { GOLDEN, goldenInts } from "../adapters/models.ts";

const FOLDER = `${GOLDEN}gpt2`;

function logits(model: LanguageModel, ids: Tensor) {
  return noGrad(() => model.forward(ids)).read();
}

async function saved(model: LanguageModel, options = {}): Promise<string> {
  const folder = `${await Deno.makeTempDir()}/saved`;
  await saveModel(model, folder, options);
  return folder;
}

Deno.test("gpt2: saving gives the tensors that were loaded, in their layout", async () => {
  const model = await loadModel(device, FOLDER);
  using before = await SafetensorsFile.open(`${FOLDER}/model.safetensors`);
  using after = await SafetensorsFile.open(`${await saved(model)}/model.safetensors`);
  assertEquals([...after.entries.keys()].sort(), [...before.entries.keys()].sort());
  for (const [name, { shape, dtype }] of before.entries) {
    const own = after.entries.get(name)!;
    assertEquals([name, own.dtype, own.shape], [name, dtype, shape]);
    assertEquals(await after.read(name), await before.read(name), name);
  }
  model.dispose();
});

Deno.test("gpt2: in NF4, weights are quantized turned over, as bitsandbytes does it", async () => {
  const dense = await loadModel(device, FOLDER);
  const model = await loadModel(device, FOLDER, { quantize: "nf4" });
  const path = "transformer.h.0.attn.c_attn";
  const own = new Map(model.linearLayers()).get(path)!;
  assert(own instanceof QuantizedLinear);
  assertEquals(own.weight.shape, [144, 48]);
  const given = new Map(dense.linearLayers()).get(path)!.dense();
  assertEquals(given.shape, [144, 48]);
  const wanted = await quantizeFourBit(given, { type: "nf4" });
  assertEquals(await own.dense().read(), await wanted.dequantize().read());
  const [, weight] = [...new Map(dense.linearLayers()).get(path)!.tensors()][0];
  assertEquals(await given.read(), await noGrad(() => transpose(weight)).read());

  const ids = await goldenInts(FOLDER, "input_ids");
  const before = await logits(model, ids);
  const error = relativeError(before, await logits(dense, ids));
  assert(error > 1e-3 && error < 0.5, `error ${error}`);
  // In bitsandbytes' format it comes back as it was, and decoded it is a plain GPT-2.
  for (const options of [{}, { dequantize: true }]) {
    const again = await loadModel(device, await saved(model, options));
    assertRelativeError(await logits(again, ids), before, 1e-6);
    again.dispose();
  }
  model.dispose();
  dense.dispose();
});

Deno.test("gpt2: bitsandbytes' checkpoint is loaded as it is, and saved to the same bytes", async () => {
  const from = `${FOLDER}/bnb-nf4-dq`;
  const model = await loadModel(device, from);
  using golden = await SafetensorsFile.open(`${from}/expected.safetensors`);
  const ids = await goldenInts(FOLDER, "input_ids");
  assertRelativeError(await logits(model, ids), await golden.readFloats("logits"), 1e-5);
  const to = await saved(model);
  // Python tells 6 from 6.0, and wants the latter.
  assert((await Deno.readTextFile(`${to}/config.json`)).includes('"llm_int8_threshold": 6.0,'));
  using before = await SafetensorsFile.open(`${from}/model.safetensors`);
  using after = await SafetensorsFile.open(`${to}/model.safetensors`);
  assertEquals([...after.entries.keys()].sort(), [...before.entries.keys()].sort());
  for (const name of before.entries.keys()) {
    assertEquals(await after.read(name), await before.read(name), name);
  }
  // Quantizing here gives bitsandbytes' bytes too; its double-quantized scales are its own CPU's by a step at most.
  const own = await loadModel(device, FOLDER, { quantize: "nf4", doubleQuant: true });
  using quantized = await SafetensorsFile.open(`${await saved(own)}/model.safetensors`);
  for (const name of before.entries.keys()) {
    if (!name.endsWith(".weight")) continue;
    assertEquals(await quantized.read(name), await before.read(name), name);
  }
  own.dispose();
  model.dispose();
});

Deno.test("gpt2: a merged model is saved in GPT-2's layout", async () => {
  const model = await loadModel(device, FOLDER);
  const lora = addLora(model, { r: 2, targetModules: ["c_attn", "mlp.c_proj"] });
  for (const { b } of lora.branches.values()) {
    device.write(b, Float32Array.from({ length: b.size }, (_, i) => Math.sin(i) / 10));
  }
  const ids = await goldenInts(FOLDER, "input_ids");
  const before = await logits(model, ids);
  mergeAdapter(model);
  assertRelativeError(await logits(model, ids), before, 1e-5);
  const again = await loadModel(device, await saved(model));
  assertRelativeError(await logits(again, ids), before, 1e-5);
  again.dispose();
  model.dispose();
});

Deno.test("gpt2: random weights are drawn as transformers does it, with a tied or an own output layer", async () => {
  const json = {
    model_type: "gpt2",
    vocab_size: 40,
    n_embd: 64,
    n_head: 4,
    n_layer: 8,
    n_positions: 16,
  };
  const deviation = (numbers: ArrayLike<number>) => {
    let sum = 0;
    for (let i = 0; i < numbers.length; i++) sum += numbers[i] ** 2;
    return Math.sqrt(sum / numbers.length);
  };
  for (const tied of [true, false]) {
    const model = randomModel(
      device,
      { ...json, tie_word_embeddings: tied },
      { seed: 2, trainable: "all" },
    );
    const weights = new Map(model.parameters());
    assertEquals(weights.has("lm_head.weight"), !tied);
    assertEquals(
      model.count().total,
      [...weights.values()].reduce((sum, { size }) => sum + size, 0),
    );
    const found: number[] = [];
    for (const name of ["attn.c_attn", "attn.c_proj", "mlp.c_fc", "mlp.c_proj"]) {
      found.push(deviation(await weights.get(`transformer.h.3.${name}.weight`)!.read()));
      assertEquals(deviation(await weights.get(`transformer.h.3.${name}.bias`)!.read()), 0);
    }
    [0.02, 0.005, 0.02, 0.005].forEach((wanted, i) => {
      assert(Math.abs(found[i] / wanted - 1) < 0.05, `${found[i]}, wanted ${wanted}`);
    });
    model.dispose();
  }
});
