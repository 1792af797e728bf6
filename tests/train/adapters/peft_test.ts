import { noGrad } from "../../../core/autograd.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import { SafetensorsFile, writeSafetensors } from "../../../train/files/safetensors.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { changedAdapter, GOLDEN, goldenInts, someIds, tinyModel } from "./models.ts";

const llama: LanguageModel = await loadModel(device, `${GOLDEN}llama`);
const A = "base_model.model.model.layers.0.self_attn.q_proj.lora_A.weight";

/** The adapter's tensors, changed, written as another data type. */
async function changedWeights(
  change: (tensors: Map<string, [number[], Float32Array]>) => void,
  dtype = "F32",
): Promise<string> {
  const folder = await changedAdapter({});
  const path = `${folder}/adapter_model.safetensors`;
  const tensors = new Map<string, [number[], Float32Array]>();
  {
    using file = await SafetensorsFile.open(path);
    for (const [name, { shape }] of file.entries) {
      tensors.set(name, [[...shape], await file.readFloats(name)]);
    }
  }
  change(tensors);
  const store = (numbers: Float32Array) =>
    dtype === "F16"
      ? new Float16Array(numbers)
      : dtype === "BF16"
      ? Uint16Array.from(new Uint32Array(numbers.buffer), (bits) => bits >>> 16)
      : numbers;
  await writeSafetensors(
    path,
    new Map(
      [...tensors].map(([name, [shape, data]]) => [name, { dtype, shape, data: store(data) }]),
    ),
  );
  return folder;
}

Deno.test("a saved adapter comes back the same", async () => {
  const ids = someIds();
  for (
    const options of [
      {},
      { r: 3, alpha: 5, useRslora: true, targetModules: ["v_proj", "0.mlp.up_proj"] },
      { r: 4, dropout: 0.25, targetModules: ".*mlp.*", rankPattern: { up_proj: 2 } },
      { r: 2, targetModules: ["q_proj"], alphaPattern: { "layers.1.*": 7 } },
    ]
  ) {
    const model = tinyModel();
    const lora = addLora(model, { ...options, seed: 4 });
    for (const { b } of lora.branches.values()) device.write(b, randomNumbers(b.size, 8));
    const wanted = await noGrad(() => model.forward(ids)).read();
    const folder = `${await Deno.makeTempDir()}/a/b`;
    await saveAdapter(lora, folder);
    lora.remove();
    const again = await loadAdapter(model, folder);
    assertEquals(await noGrad(() => model.forward(ids)).read(), wanted);
    assertEquals([...again.branches.keys()], [...lora.branches.keys()]);
    assertEquals(again.options.dropout, lora.options.dropout);
    assertEquals(again.training, false);
    assert([...again.parameters()].every(([, own]) => own.requiresGrad));
  }
});

Deno.test("saveAdapter() keeps other files of the folder, and writes what PEFT needs", async () => {
  const model = tinyModel();
  const lora = addLora(model, { r: 2 });
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/notes.txt`, "mine");
  await saveAdapter(lora, folder, { baseModel: "me/tiny" });
  const names = (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).sort();
  assertEquals(names, ["adapter_config.json", "adapter_model.safetensors", "notes.txt"]);
  const config = JSON.parse(await Deno.readTextFile(`${folder}/adapter_config.json`));
  const golden = `${GOLDEN}llama/lora/start/adapter_config.json`;
  assertEquals(Object.keys(config), Object.keys(JSON.parse(await Deno.readTextFile(golden))));
  assertEquals(config.base_model_name_or_path, "me/tiny");
  assertEquals(
    config.target_modules.join(),
    "down_proj,gate_proj,k_proj,o_proj,q_proj,up_proj,v_proj",
  );
});

Deno.test("saveAdapter() saves no NaN, and nothing where it fails", async () => {
  const lora = addLora(tinyModel(), { r: 2, targetModules: ["q_proj"] });
  const { b } = lora.branches.get("model.layers.1.self_attn.q_proj")!;
  device.write(b, Float32Array.of(0, NaN));
  const folder = `${await Deno.makeTempDir()}/none`;
  await assertRejects(
    () => saveAdapter(lora, folder),
    RangeError,
    'found NaN or infinity in "base_model.model.model.layers.1.self_attn.q_proj.lora_B.weight"',
  );
  await assertRejects(() => Deno.stat(folder), Deno.errors.NotFound, "");
  lora.remove();
  await assertRejects(
    () => saveAdapter(lora, folder),
    TypeError,
    "found it removed, or merged for good; save it before",
  );
});

Deno.test("loadAdapter() reads F16 and BF16", async () => {
  const ids = await goldenInts(`${GOLDEN}llama`, "input_ids");
  const logits = async (folder: string) => {
    const lora = await loadAdapter(llama, folder);
    const found = await noGrad(() => llama.forward(ids)).read();
    lora.remove();
    return found;
  };
  const wanted = await logits(`${GOLDEN}llama/lora/start`);
  assertRelativeError(await logits(await changedWeights(() => {}, "F16")), wanted, 1e-3);
  assertRelativeError(await logits(await changedWeights(() => {}, "BF16")), wanted, 1e-2);
});

Deno.test("loadAdapter() reads short and older configurations, and passes over names of no layer", async () => {
  const folder = await changedAdapter({ target_modules: ["q_proj", "v_proj", "query_key_value"] });
  (await loadAdapter(llama, folder)).remove();
  const short = { "peft_type": "LORA", "r": 4, "target_modules": ["q_proj", "v_proj"] };
  await Deno.writeTextFile(`${folder}/adapter_config.json`, JSON.stringify(short));
  const lora = await loadAdapter(llama, folder);
  assertEquals(lora.options.alpha, 8);
  lora.remove();
});

Deno.test("loadAdapter() refuses what nibble does not have", async () => {
  for (
    const [key, value, text] of [
      ["peft_type", "LOHA", '"peft_type" is "LOHA", wanted "LORA"'],
      ["use_dora", "yes", '"use_dora" is "yes", wanted true or false'],
      ["use_bdlora", { a: 1 }, '"use_bdlora" is {"a":1}, wanted nothing'],
      ["layer_replication", [[0, 2], [1, 2]], '"layer_replication" is [[0,2],[1,2]]'],
      ["target_parameters", ["x"], '"target_parameters" is ["x"], wanted nothing'],
      ["trainable_token_indices", [1], '"trainable_token_indices" is [1], wanted nothing'],
      ["use_something_new", true, '"use_something_new" is true'],
      ["modules_to_save", "lm_head", '"modules_to_save" is "lm_head", wanted a list of names'],
      ["layers_to_transform", ["0"], '"layers_to_transform" is ["0"], wanted a number, or a list'],
      ["layers_pattern", ["layers"], "found layersPattern without layersToTransform"],
      ["exclude_modules", 1, '"exclude_modules" is 1, wanted a list of names, or a string'],
      ["lora_bias", true, '"lora_bias" is true'],
      ["bias", "all", '"bias" is "all", wanted "none"'],
      ["fan_in_fan_out", true, '"fan_in_fan_out" is true, wanted false for a llama model'],
      ["init_lora_weights", "pissa_niter_4", "a random decomposition cannot be repeated"],
      ["init_lora_weights", "corda", '"init_lora_weights" is "corda", wanted true, "gaussian"'],
      ["target_modules", null, '"target_modules" is null, wanted a list of names'],
      ["target_modules", [1], '"target_modules" is [1]'],
      ["r", "4", '"r" is "4", wanted a number'],
      ["use_rslora", 1, '"use_rslora" is 1, wanted true or false'],
      ["rank_pattern", { q_proj: "2" }, '"rank_pattern" is {"q_proj":"2"}, wanted an object'],
    ] as const
  ) {
    const folder = await changedAdapter({ [key]: value });
    await assertRejects(() => loadAdapter(llama, folder), TypeError, text);
  }
  await assertRejects(
    async () => await loadAdapter(llama, await changedAdapter({ lora_dropout: 2 })),
    RangeError,
    'adapter_config.json": Cannot add LoRA: found dropout 2',
  );
  await assertRejects(
    async () => await loadAdapter(llama, await changedAdapter({ target_modules: ["c_attn"] })),
    RangeError,
    'found no linear layer "c_attn", wanted q_proj',
  );
  assertEquals([...llama.parameters()], []);
});

Deno.test("loadAdapter() takes weights started in ways that leave the model alone", async () => {
  for (const start of [false, "gaussian", "eva"]) {
    (await loadAdapter(llama, await changedAdapter({ init_lora_weights: start }))).remove();
  }
});

Deno.test("loadAdapter() names tensors that do not fit", async () => {
  const fails = async (folder: string, text: string) => {
    await assertRejects(() => loadAdapter(llama, folder), RangeError, text);
    assertEquals([...llama.parameters()], []);
  };
  await fails(
    await changedAdapter({ r: 8 }),
    `found "${A}" with shape [4,64], wanted [8,64]; is it for another model, or of another rank`,
  );
  await fails(await changedAdapter({ target_modules: ["v_proj"] }), `found "${A}" [4,64], wanted`);
  await fails(
    await changedAdapter({ target_modules: ["q_proj", "v_proj", "o_proj"] }),
    'found no "base_model.model.model.layers.0.self_attn.o_proj.lora_A.weight", wanted it with shape [4,64]',
  );
  await fails(await changedWeights((tensors) => tensors.delete(A)), `found no "${A}"`);
  const magnitude = "base_model.model.model.layers.0.self_attn.q_proj.lora_magnitude_vector";
  await fails(
    await changedWeights((tensors) => tensors.set(magnitude, [[64], new Float32Array(64)])),
    `found "${magnitude}" [64], wanted only lora_A.weight and lora_B.weight`,
  );
});

Deno.test("loadAdapter() names missing and broken files", async () => {
  const missing = await Deno.makeTempDir();
  await assertRejects(() => loadAdapter(llama, missing), Error, "adapter_config.json");
  const folder = await changedAdapter({});
  await Deno.remove(`${folder}/adapter_model.safetensors`);
  await assertRejects(() => loadAdapter(llama, folder), Error, "adapter_model.safetensors");
  for (const length of [0, 7, 100, 5000]) {
    const cut = await changedAdapter({}, (bytes) => bytes.subarray(0, length));
    await assertRejects(() => loadAdapter(llama, cut), Error, "adapter_model.safetensors");
  }
  await Deno.writeTextFile(`${folder}/adapter_config.json`, "{");
  await assertRejects(() => loadAdapter(llama, folder), SyntaxError, "not valid JSON");
});

Deno.test("loadAdapter() puts no second adapter on a layer", async () => {
  const folder = `${GOLDEN}llama/lora/start`;
  const lora = await loadAdapter(llama, folder);
  await assertRejects(() => loadAdapter(llama, folder), TypeError, "found an adapter on it");
  lora.remove();
});
