// deno-lint-ignore-file camelcase -- the names are those of config.json
import { type TensorData, writeSafetensors } from "../../../train/files/safetensors.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { assertEquals, assertRejects } from "../../assert.ts";
import { device } from "../../device.ts";

const LLAMA: Json = {
  model_type: "llama",
  vocab_size: 32,
  hidden_size: 16,
  intermediate_size: 24,
  num_hidden_layers: 2,
  num_attention_heads: 2,
  tie_word_embeddings: true,
};
const GPT2: Json = {
  model_type: "gpt2",
  vocab_size: 32,
  n_embd: 16,
  n_head: 2,
  n_layer: 1,
  n_positions: 8,
};

/** A model folder whose weights were changed. */
async function folderOf(
  json: Json,
  change: (weights: Map<string, TensorData>) => void,
): Promise<string> {
  const model = randomModel(device, json, { trainable: "all" });
  const weights = new Map<string, TensorData>();
  for (const [name, { shape }] of model.parameters()) weights.set(name, floats(...shape));
  model.dispose();
  change(weights);
  const folder = await Deno.makeTempDir();
  await Deno.writeTextFile(`${folder}/config.json`, JSON.stringify(json));
  await writeSafetensors(`${folder}/model.safetensors`, weights);
  return folder;
}

function floats(...shape: number[]): TensorData {
  return { dtype: "F32", shape, data: new Float32Array(shape.reduce((a, b) => a * b, 1)) };
}

Deno.test("loadModel() lists weights that are missing, misshapen or left over", async () => {
  const folder = await folderOf(LLAMA, (weights) => {
    weights.delete("model.norm.weight");
    weights.delete("model.layers.1.mlp.up_proj.weight");
    weights.set("model.layers.0.self_attn.q_proj.weight", floats(16, 8));
    weights.set("model.layers.2.input_layernorm.weight", floats(16));
    weights.set("model.layers.0.self_attn.q_proj.bias", floats(16));
  });
  await assertRejects(
    () => loadModel(device, folder),
    RangeError,
    `Cannot load the model in "${folder}": its weights are not those that its configuration calls for: ` +
      'missing "model.layers.1.mlp.up_proj.weight" [24,16], "model.norm.weight" [16]; ' +
      'of another shape "model.layers.0.self_attn.q_proj.weight" [16,8], wanted [16,16]; ' +
      'left over "model.layers.0.self_attn.q_proj.bias" [16], "model.layers.2.input_layernorm.weight" [16]; ' +
      "is the configuration that of another model?",
  );
});

Deno.test("loadModel() lists ten names of a kind at most", async () => {
  const folder = await folderOf(LLAMA, (weights) => weights.clear());
  await assertRejects(() => loadModel(device, folder), RangeError, " and 10 more; is the");
});

Deno.test("loadModel() passes over buffers of older files, and the weight of a tied output layer", async () => {
  const llama = await folderOf(LLAMA, (weights) => {
    weights.set("model.layers.0.self_attn.rotary_emb.inv_freq", floats(4));
    weights.set("lm_head.weight", floats(32, 16));
  });
  (await loadModel(device, llama)).dispose();
  const gpt2 = await folderOf(GPT2, (weights) => {
    weights.set("transformer.h.0.attn.bias", floats(1, 1, 8, 8));
    weights.set("transformer.h.0.attn.masked_bias", floats());
  });
  (await loadModel(device, gpt2)).dispose();
  const untied = await folderOf({ ...LLAMA, tie_word_embeddings: false }, (weights) => {
    weights.delete("lm_head.weight");
  });
  await assertRejects(
    () => loadModel(device, untied),
    RangeError,
    'missing "lm_head.weight" [32,16]',
  );
});

Deno.test("loadModel() finds the weights of a model saved without its output layer", async () => {
  for (const [json, prefix] of [[GPT2, "transformer."], [LLAMA, "model."]] as const) {
    const folder = await folderOf(json, (weights) => {
      for (const [name, data] of [...weights]) {
        weights.delete(name);
        weights.set(name.replace(prefix, ""), data);
      }
    });
    const model = await loadModel(device, folder, { trainable: "all" });
    assertEquals([...model.parameters()].every(([name]) => name.startsWith(prefix)), true);
    model.dispose();
  }
});
