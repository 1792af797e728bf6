import { backward, noGrad } from "../../../core/autograd.ts";
import type { Tensor } from "../../../core/tensor.ts";
import { addLora, type Lora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { FlatParameters } from "../../../train/optim/flat_parameters.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { changedAdapter, GOLDEN, goldenInts, someIds, tinyModel } from "./models.ts";

const logits = (model: LanguageModel, ids: Tensor) => noGrad(() => model.forward(ids)).read();
const WHOLE = { r: 2, targetModules: ["q_proj"], modulesToSave: ["embed_tokens", "lm_head"] };

/** Moves the parameters as a trainer does, and changes them. */
function learn(model: LanguageModel, lora: Lora): void {
  new FlatParameters(model.parameters()).dispose();
  let seed = 3;
  for (const [, own] of lora.parameters()) device.write(own, randomNumbers(own.size, seed++, 0.1));
}

Deno.test("modulesToSave are trained whole: gradients are those of full fine-tuning", async () => {
  const folder = `${GOLDEN}llama`;
  const model = await loadModel(device, folder);
  const lora = addLora(model, { ...WHOLE, modulesToSave: ["embed_tokens", "lm_head", "norm"] });
  using golden = await SafetensorsFile.open(`${folder}/expected.safetensors`);
  backward(model.loss(await goldenInts(folder, "input_ids"), await goldenInts(folder, "labels")));
  const own = [...lora.parameters()].filter(([name]) => !name.includes("lora_"));
  const names = [
    "model.embed_tokens",
    "model.layers.0.input_layernorm",
    "model.layers.0.post_attention_layernorm",
    "model.layers.1.input_layernorm",
    "model.layers.1.post_attention_layernorm",
    "model.norm",
    "lm_head",
  ];
  assertEquals(
    own.map(([name]) => name).sort(),
    names.map((name) => `base_model.model.${name}.weight`).sort(),
  );
  for (const [name, tensor] of own) {
    const wanted = await golden.readFloats(`grad.${name.replace("base_model.model.", "")}`);
    assertRelativeError(await tensor.grad!.read(), wanted, 2e-5, name);
  }
  assertEquals(model.count().trainable, lora.count);
});

Deno.test("modulesToSave are saved under PEFT's names, and loaded; remove() puts back what was", async () => {
  const model = tinyModel();
  const ids = someIds();
  const before = await logits(model, ids);
  const lora = addLora(model, WHOLE);
  assertEquals(await logits(model, ids), before);
  learn(model, lora);
  const wanted = await logits(model, ids);
  assert(wanted.some((number, i) => number !== before[i]));
  const folder = `${await Deno.makeTempDir()}/whole`;
  await saveAdapter(lora, folder);
  using file = await SafetensorsFile.open(`${folder}/adapter_model.safetensors`);
  for (const name of ["model.embed_tokens.weight", "lm_head.weight"]) {
    assertEquals(file.entries.get(`base_model.model.${name}`)?.shape, [96, 32]);
  }
  lora.remove();
  assertEquals(await logits(model, ids), before);
  const again = await loadAdapter(model, folder);
  assertEquals(again.options.modulesToSave, ["embed_tokens", "lm_head"]);
  assertEquals(await logits(model, ids), wanted);
  again.remove();
  assertEquals(await logits(model, ids), before);
});

Deno.test("merging keeps whole modules, and frees all but the model", async () => {
  const model = tinyModel("all");
  const ids = someIds();
  const { trainable } = model.count();
  const live = device.memory.live;
  const lora = addLora(model, { ...WHOLE, useDora: true, targetModules: ["q_proj", "up_proj"] });
  lora.merge();
  assertEquals([...model.parameters()], []);
  lora.unmerge();
  assertEquals(model.count().trainable, lora.count);
  lora.remove();
  assertEquals([device.memory.live, model.count().trainable], [live, trainable]);

  learn(model, addLora(model, WHOLE));
  mergeAdapter(model);
  assertEquals(device.memory.live, live);
  learn(model, addLora(model, WHOLE));
  const wanted = await logits(model, ids);
  mergeAdapter(model);
  assertRelativeError(await logits(model, ids), wanted, 1e-5);
  assertEquals([...model.parameters()], []);
});

Deno.test("adapters beside each other: whole modules of one are not another's", async () => {
  const model = tinyModel();
  const ids = someIds();
  const first = addLora(model, WHOLE);
  assertThrows(
    () => addLora(model, { targetModules: ["v_proj"], modulesToSave: ["lm_head"] }),
    TypeError,
    `Cannot train "lm_head.weight" whole: found it in another adapter's modulesToSave`,
  );
  const second = addLora(model, { targetModules: ["v_proj"], modulesToSave: ["model.norm"] });
  learn(model, second);
  const parameters = [...first.parameters(), ...second.parameters()];
  assertEquals(model.count().trainable, parameters.reduce((sum, [, own]) => sum + own.size, 0));
  const before = await logits(model, ids);
  first.merge();
  assertRelativeError(await logits(model, ids), before, 1e-5);
  first.unmerge();
  first.remove();
  second.remove();
  assertEquals([...model.parameters()], []);
});

Deno.test("modulesToSave says what it cannot train whole", async () => {
  const fails = (model: LanguageModel, entry: string, type: typeof TypeError, text: string) => {
    assertThrows(() => addLora(model, { r: 2, modulesToSave: [entry] }), type, text);
    assertEquals([...model.parameters()], []);
  };
  fails(tinyModel(), "score", RangeError, 'Cannot train "score" whole: found no module');
  const tied = await loadModel(device, `${GOLDEN}qwen2`);
  for (const name of ["lm_head", "model.embed_tokens"]) {
    fails(tied, name, TypeError, "found the output layer tied to the embedding");
  }
  const quantized = await loadModel(device, `${GOLDEN}llama`, { quantize: "nf4" });
  fails(quantized, "0.mlp.down_proj", TypeError, "found its weight in nf4, wanted plain weights");
  const head = addLora(quantized, { r: 2, modulesToSave: ["lm_head"] });
  assertEquals([...head.parameters()].at(-1)?.[0], "base_model.model.lm_head.weight");
  const folder = await changedAdapter({ modules_to_save: ["lm_head"] });
  const llama = await loadModel(device, `${GOLDEN}llama`);
  await assertRejects(
    () => loadAdapter(llama, folder),
    RangeError,
    'found no "base_model.model.lm_head.weight", wanted it with shape [320,64]',
  );
});

Deno.test("excluded and chosen layers come back from a folder", async () => {
  const model = tinyModel();
  const options = {
    r: 2,
    excludeModules: ["gate_proj", "o_proj"],
    layersToTransform: [1],
    layersPattern: ["layers"],
  };
  const lora = addLora(model, options);
  const paths = [...lora.branches.keys()];
  assertEquals(paths.map((path) => path.split(".").at(-1)!), [
    ...["q_proj", "k_proj", "v_proj", "up_proj", "down_proj"],
  ]);
  assert(paths.every((path) => path.startsWith("model.layers.1.")));
  const folder = `${await Deno.makeTempDir()}/some`;
  await saveAdapter(lora, folder);
  lora.remove();
  const config = JSON.parse(await Deno.readTextFile(`${folder}/adapter_config.json`));
  assertEquals(config.exclude_modules, options.excludeModules);
  assertEquals([config.layers_to_transform, config.layers_pattern], [[1], ["layers"]]);
  assert(Array.isArray(config.target_modules));
  assertEquals([...(await loadAdapter(model, folder)).branches.keys()], paths);
});
