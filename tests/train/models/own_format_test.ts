import { tensor } from "../../../core/tensor.ts";
import { addLora } from "../../../train/adapters/lora.ts";
import { openCheckpoint, writeSafetensors } from "../../../train/files/safetensors.ts";
import type { TensorData } from "../../../train/files/safetensors.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { type QuantizationPolicy, quantizeByPolicy } from "../../../train/quant/policy.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { withFolder } from "../../with_folder.ts";

const JSONS = {
  llama: {
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 64,
    intermediate_size: 96,
    num_hidden_layers: 1,
    num_attention_heads: 4,
  },
  gpt2: { model_type: "gpt2", vocab_size: 64, n_embd: 64, n_layer: 1, n_head: 4 },
};

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  const ids = tensor(device, Int32Array.of(5, 17, 3, 60), [1, 4]);
  return await model.forward(ids).read() as Float32Array;
}

/** What only nibble's own format has a place for, alone and together. */
const SCHEMES = { llama: ["hqq", "hqq3-g16", "int3-g32+2%", "nf4-dq+5%"], gpt2: ["int4+10%"] };

function policiesOf(schemes: readonly string[], paths: readonly string[]): QuantizationPolicy[] {
  const [first, second, third] = paths;
  const alone = schemes.map((otherwise) => ({ rules: [], otherwise }));
  const rules = [
    { layers: first, scheme: "int8" },
    { layers: second, scheme: "f32" },
    { layers: third, scheme: "hqq3+10%" },
  ];
  return [...alone, { rules, otherwise: "nf4-dq" }, { rules, otherwise: "int2-g16" }];
}

for (const kind of ["llama", "gpt2"] as const) {
  Deno.test(`a ${kind} by HQQ, with columns in 16 bits, or of both kinds is saved, and loaded to the same logits`, () =>
    withFolder(async (folder) => {
      const random = randomModel(device, JSONS[kind], { seed: 1 });
      const paths = [...random.linearLayers()].map(([path]) => path);
      for (const policy of policiesOf(SCHEMES[kind], paths)) {
        const what = JSON.stringify(policy);
        const replaced = await quantizeByPolicy(random, policy);
        await saveModel(random, `${folder}/model`);
        const back = await loadModel(device, `${folder}/model`);
        assertEquals(await logitsOf(back), await logitsOf(random), what);
        assertEquals(back.weightBytes, random.weightBytes, what);
        const layers = new Map(back.linearLayers());
        for (const [path, layer] of random.linearLayers()) {
          const other = layers.get(path)!;
          assertEquals(other instanceof QuantizedLinear, layer instanceof QuantizedLinear, what);
          if (!(layer instanceof QuantizedLinear && other instanceof QuantizedLinear)) continue;
          assertEquals(other.weight.scheme, layer.weight.scheme, `${what} ${path}`);
        }
        const { quantization_config: config } = JSON.parse(
          await Deno.readTextFile(`${folder}/model/config.json`),
        );
        assertEquals([config.quant_method, config.version], ["nibble", 1], what);
        await saveModel(back, `${folder}/again`);
        const bytes = (name: string) => Deno.readFile(`${folder}/${name}/model.safetensors`);
        assertEquals(await bytes("again"), await bytes("model"), what);
        const plain = await loadModel(device, `${folder}/model`, { dequantize: true });
        assert([...plain.linearLayers()].every(([, own]) => !(own instanceof QuantizedLinear)));
        assertRelativeError(await logitsOf(plain), await logitsOf(random), 1e-5, what);
        for (const model of [back, plain]) model.dispose();
        replaced.restore();
      }
      random.dispose();
    }));
}

Deno.test("what a file says to be nibble's own is read, or refused with a reason", () =>
  withFolder(async (base) => {
    const folder = `${base}/model`;
    const model = randomModel(device, JSONS.llama, { seed: 1 });
    await quantizeByPolicy(model, { rules: [], otherwise: "int4+10%" });
    await saveModel(model, folder);
    const load = (options: Parameters<typeof loadModel>[2] = {}) => () =>
      loadModel(device, folder, options);
    await assertRejects(load({ quantize: "int4" }), RangeError, "with 6 columns in 16 bits");
    await assertRejects(load({ trainable: "all" }), TypeError, "is stored as integers, and frozen");
    addLora(await load()(), { r: 2 });

    const path = `${folder}/config.json`;
    const text = await Deno.readTextFile(path);
    const config = JSON.parse(text);
    const methods: [object | undefined, string][] = [
      [{ version: 2 }, "version 2 of nibble's own format, wanted 1; use the nibble that wrote it"],
      [{ version: undefined }, "version nothing of nibble's own format"],
      [
        { quant_method: "hqq" },
        "quantized by hqq, wanted bitsandbytes in 4 bits, compressed-tensors in integers, nibble's own",
      ],
      [
        { quant_method: "compressed-tensors", format: "float-quantized" },
        'compressed-tensors in the format "float-quantized", wanted',
      ],
      [{ config_groups: { a: { weights: { num_bits: 5 } } } }, "wanted whole numbers of 8, 4, 3"],
      [undefined, "config.json has no quantization_config for those"],
    ];
    for (const [change, message] of methods) {
      const own = change && { ...config.quantization_config, ...change };
      await Deno.writeTextFile(path, JSON.stringify({ ...config, quantization_config: own }));
      await assertRejects(load(), Error, message);
    }
    await Deno.writeTextFile(path, text);

    const whole = new Map<string, TensorData>();
    {
      using source = await openCheckpoint(folder);
      for (const [name, { dtype, shape }] of source.entries) {
        whole.set(name, { dtype, shape, data: await source.read(name) });
      }
    }
    const name = "model.layers.0.mlp.up_proj.weight";
    const kept = (data: Float16Array) => ({ dtype: "F16", shape: [96, data.length / 96], data });
    const columns = (...data: number[]) => ({
      ...{ dtype: "I32", shape: [data.length], data: Int32Array.from(data) },
    });
    const cases: [string, TensorData | null, string][] = [
      [`${name}_columns`, null, "no numbers of columns, wanted F16 [96,kept]"],
      [`${name}_columns`, columns(1, 2, 3, 4, 5), "I32 [5], wanted F16"],
      [`${name}_columns`, columns(1, 2, 3, 4, 5, 64), "column"],
      [`${name}_columns`, columns(1, 2, 3, 5, 4, 6), "column"],
      [`${name}_kept`, kept(new Float16Array(96 * 6).fill(NaN)), "one is NaN"],
      [`${name}_kept`, null, "left over"],
    ];
    for (const [key, data, message] of cases) {
      const tensors = new Map(whole);
      if (data) tensors.set(key, data);
      else tensors.delete(key);
      await writeSafetensors(`${folder}/model.safetensors`, tensors);
      await assertRejects(load(), RangeError, message);
    }
  }));
