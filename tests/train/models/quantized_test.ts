import { tensor } from "../../../core/tensor.ts";
import { FourBitTensor } from "../../../kernels/quant/four_bit.ts";
import {
  SafetensorsFile,
  type TensorData,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRejects, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";

const GOLDEN = new URL("../../golden/llama", import.meta.url).pathname;

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

const readJson = async (path: string) => JSON.parse(await Deno.readTextFile(path));

/** The names of the tensors that differ, and of those that only one file has. */
async function differences(one: string, other: string): Promise<string[]> {
  using a = await SafetensorsFile.open(`${one}/model.safetensors`);
  using b = await SafetensorsFile.open(`${other}/model.safetensors`);
  const names = [...new Set([...a.entries.keys(), ...b.entries.keys()])];
  const found = names.map(async (name) => {
    const [own, theirs] = [a.entries.get(name), b.entries.get(name)];
    if (own?.dtype !== theirs?.dtype || String(own?.shape) !== String(theirs?.shape)) return name;
    const [x, y] = await Promise.all([a.read(name), b.read(name)]);
    return x.every((byte, i) => byte === y[i]) ? null : name;
  });
  return (await Promise.all(found)).filter((name) => name !== null);
}

/** A copy of a golden folder, to be changed. */
async function copyOf(name: string, as: string): Promise<string> {
  const copy = `${folder}/${as}`;
  await Deno.mkdir(copy);
  for (const file of ["config.json", "model.safetensors"]) {
    await Deno.writeFile(`${copy}/${file}`, await Deno.readFile(`${GOLDEN}/${name}/${file}`));
  }
  return copy;
}

async function logitsOf(model: LanguageModel): Promise<Float32Array> {
  using golden = await SafetensorsFile.open(`${GOLDEN}/expected.safetensors`);
  const { shape } = golden.entries.get("input_ids")!;
  const ids = new Int32Array((await golden.read("input_ids")).buffer);
  return await model.forward(tensor(device, ids, shape)).read() as Float32Array;
}

const CASES = [
  ["bnb-nf4-dq", { quantize: "nf4", doubleQuant: true }],
  ["bnb-fp4", { quantize: "fp4" }],
] as const;

/** Decodes the file's 4-bit weights with plain loops, so that what remains is a model that llama_test.ts checks. */
async function decodeByHand(name: string): Promise<string> {
  using file = await SafetensorsFile.open(`${GOLDEN}/${name}/model.safetensors`);
  using plain = await SafetensorsFile.open(`${GOLDEN}/model.safetensors`);
  const tensors = new Map<string, TensorData>();
  for (const [key, { dtype, shape }] of plain.entries) {
    const state = [...file.entries.keys()].find((own) => own.startsWith(`${key}.quant_state`));
    if (!state) {
      tensors.set(key, { dtype, shape, data: await file.read(key) });
      continue;
    }
    const { blocksize, nested_offset: offset } = JSON.parse(
      new TextDecoder().decode(await file.read(state)),
    );
    const [bytes, table] = [await file.read(key), await file.readFloats(`${key}.quant_map`)];
    let absmax: Float32Array;
    if (offset === undefined) absmax = await file.readFloats(`${key}.absmax`);
    else {
      const map = await file.readFloats(`${key}.nested_quant_map`);
      const nested = await file.readFloats(`${key}.nested_absmax`);
      absmax = Float32Array.from(
        await file.read(`${key}.absmax`),
        (code, i) => Math.fround(map[code] * nested[i >> 8]) + offset,
      );
    }
    const data = Float32Array.from({ length: bytes.length * 2 }, (_, i) => {
      const code = i % 2 === 0 ? bytes[i >> 1] >> 4 : bytes[i >> 1] & 15;
      return table[code] * absmax[Math.floor(i / blocksize)];
    });
    tensors.set(key, { dtype: "F32", shape, data });
  }
  const folderOfCopy = await copyOf(".", `${name}-by-hand`);
  await writeSafetensors(`${folderOfCopy}/model.safetensors`, tensors);
  return folderOfCopy;
}

for (const [name, options] of CASES) {
  Deno.test(`${name}: transformers' checkpoint gives the logits of its decoded weights`, async () => {
    const model = await loadModel(device, `${GOLDEN}/${name}`);
    const logits = await logitsOf(model);
    const decoded = await loadModel(device, await decodeByHand(name));
    assertRelativeError(logits, await logitsOf(decoded), 1e-5);
    // bitsandbytes made these on a processor with AVX-512 BF16, where its 4-bit product rounds input, scales and output to bf16:
    // with those roundings, the same arithmetic in NumPy is 3e-5 from them (NF4), and without 0.0095, just as nibble is.
    using golden = await SafetensorsFile.open(`${GOLDEN}/${name}/expected.safetensors`);
    assertRelativeError(logits, await golden.readFloats("logits"), 0.011);
    model.dispose();
    decoded.dispose();
  });

  Deno.test(`${name}: loading and saving gives transformers' files again`, async () => {
    const model = await loadModel(device, `${GOLDEN}/${name}`, options);
    const again = `${folder}/${name}-again`;
    await saveModel(model, again);
    model.dispose();
    assertEquals(await differences(again, `${GOLDEN}/${name}`), []);
    const sums = await Promise.all(
      [again, `${GOLDEN}/${name}`].map((path) => Deno.readFile(`${path}/model.safetensors`)),
    );
    assertEquals(sums[0], sums[1]);
    const [own, theirs] = await Promise.all(
      [again, `${GOLDEN}/${name}`].map((path) => readJson(`${path}/config.json`)),
    );
    assertEquals(own, theirs);
  });

  Deno.test(`${name}: quantizing the plain model gives bitsandbytes' bytes`, async () => {
    const model = await loadModel(device, GOLDEN, options);
    const own = `${folder}/${name}-own`;
    await saveModel(model, own);
    model.dispose();
    assertEquals(await differences(own, `${GOLDEN}/${name}`), []);
    const { quantization_config: config } = await readJson(`${own}/config.json`);
    const golden = await readJson(`${GOLDEN}/${name}/config.json`);
    assertEquals(JSON.stringify(config), JSON.stringify(golden.quantization_config));
  });
}

Deno.test("saveModel() with dequantize writes a plain model with the same logits", async () => {
  const quantized = await loadModel(device, `${GOLDEN}/bnb-nf4-dq`);
  await saveModel(quantized, `${folder}/plain`, { dequantize: true });
  const plain = await loadModel(device, `${folder}/plain`, { trainable: "all" });
  assertRelativeError(await logitsOf(plain), await logitsOf(quantized), 1e-5);
  assertEquals((await readJson(`${folder}/plain/config.json`)).quantization_config, undefined);
  assertEquals(plain.count(), { total: plain.count().total, trainable: quantized.count().total });
  quantized.dispose();
  plain.dispose();
});

Deno.test("saveModel() in bf16 and f16 says so to Python, and keeps codes and scales", async () => {
  const model = await loadModel(device, `${GOLDEN}/bnb-fp4`);
  for (const [dtype, stored, torch] of [["bf16", "BF16", "bfloat16"], ["f16", "F16", "float16"]]) {
    await saveModel(model, `${folder}/${dtype}`, { dtype: dtype as "bf16" | "f16" });
    const other = await differences(`${folder}/${dtype}`, `${GOLDEN}/bnb-fp4`);
    assertEquals(other.filter((name) => /\.(absmax|quant_map)$|proj\.weight$/.test(name)), []);
    using file = await SafetensorsFile.open(`${folder}/${dtype}/model.safetensors`);
    assertEquals(file.entries.get("lm_head.weight")?.dtype, stored);
    const key = "model.layers.0.mlp.up_proj.weight.quant_state.bitsandbytes__fp4";
    assertEquals(JSON.parse(new TextDecoder().decode(await file.read(key))).dtype, torch);
    const { dtype: said, quantization_config: config } = await readJson(
      `${folder}/${dtype}/config.json`,
    );
    assertEquals([said, config.bnb_4bit_quant_type], [torch, "fp4"]);
    const head = await file.readFloats("lm_head.weight");
    using golden = await SafetensorsFile.open(`${GOLDEN}/model.safetensors`);
    // Rounded to nearest: at most half a unit in the last of 8 or 11 binary digits.
    const wanted = await golden.readFloats("lm_head.weight");
    const unit = dtype === "bf16" ? 2 ** -9 : 2 ** -12;
    assert(
      head.every((value, i) =>
        Math.abs(value - wanted[i]) <= Math.abs(wanted[i]) * unit * 2 + 1e-7
      ),
    );
  }
  model.dispose();
});

Deno.test("a model with some plain layers names them to transformers, and loads back", async () => {
  const model = await loadModel(device, GOLDEN, { quantize: "nf4" });
  const path = "model.layers.1.mlp.down_proj";
  const dense = await loadModel(device, GOLDEN);
  const [, plain] = [...dense.linearLayers()].find(([name]) => name === path)!;
  model.replaceLinear(path, plain);
  await saveModel(model, `${folder}/mixed`);
  const { quantization_config: config } = await readJson(`${folder}/mixed/config.json`);
  assertEquals(config.llm_int8_skip_modules, [path, "lm_head"]);
  const back = await loadModel(device, `${folder}/mixed`);
  const kinds = [...back.linearLayers()].filter(([, l]) => !(l instanceof QuantizedLinear));
  assertEquals(kinds.map(([name]) => name), [path]);
  assertRelativeError(await logitsOf(back), await logitsOf(model), 0);
});

Deno.test("an output layer in 4 bits is decoded", async () => {
  // As transformers writes it where llm_int8_skip_modules is a list without lm_head.
  const copy = await copyOf("bnb-fp4", "head");
  using file = await SafetensorsFile.open(`${copy}/model.safetensors`);
  const tensors = new Map(
    await Promise.all([...file.entries].map(async ([name, { dtype, shape }]) => {
      return [name, { dtype, shape, data: await file.read(name) }] as const;
    })),
  );
  const from = "model.layers.0.mlp.up_proj.weight";
  // 320 × 64 weights: the up projection's 128 × 64 two and a half times.
  const repeat = (bytes: Uint8Array) =>
    Uint8Array.from({ length: bytes.length * 2.5 }, (_, i) => bytes[i % bytes.length]);
  const state = '{"quant_type": "fp4", "blocksize": 64, "dtype": "float32", "shape": [320, 64]}';
  const head = "lm_head.weight";
  tensors.set(head, { dtype: "U8", shape: [10240, 1], data: repeat(await file.read(from)) });
  const absmax = repeat(await file.read(`${from}.absmax`));
  tensors.set(`${head}.absmax`, { dtype: "F32", shape: [320], data: absmax });
  tensors.set(`${head}.quant_map`, tensors.get(`${from}.quant_map`)!);
  const data = new TextEncoder().encode(state);
  tensors.set(`${head}.quant_state.bitsandbytes__fp4`, { dtype: "U8", shape: [data.length], data });
  await writeSafetensors(`${copy}/model.safetensors`, tensors);
  const model = await loadModel(device, copy);
  const layers = new Map(model.modules());
  const up = await (layers.get("model.layers.0.mlp.up_proj") as QuantizedLinear).dense().read();
  const [[, weight]] = [...layers.get("lm_head")!.tensors()];
  assertEquals((await weight.read()).slice(0, up.length), up);
});

Deno.test("loadModel() refuses what a 4-bit checkpoint cannot give", async () => {
  const path = `${GOLDEN}/bnb-nf4-dq`;
  await assertRejects(
    () => loadModel(device, path, { quantize: "fp4" }),
    RangeError,
    "it is stored as nf4 with doubleQuant in blocks of 64, but fp4 in blocks of 64 was asked for",
  );
  await assertRejects(
    () => loadModel(device, path, { quantize: "nf4", blockSize: 128 }),
    RangeError,
    "blocks of 128",
  );
  await assertRejects(
    () => loadModel(device, `${GOLDEN}/bnb-fp4`, { quantize: "fp4", doubleQuant: true }),
    RangeError,
    "it is stored as fp4 in blocks of 64, but fp4 with doubleQuant",
  );
  await assertRejects(
    () => loadModel(device, path, { trainable: "all" }),
    TypeError,
    "is stored in 4 bits, and frozen",
  );
});

Deno.test("loadModel() says what is wrong with a 4-bit checkpoint", async () => {
  const cut = await copyOf("bnb-fp4", "cut");
  await Deno.truncate(`${cut}/model.safetensors`, 100_000);
  await assertRejects(() => loadModel(device, cut), RangeError, "fetch it again");

  const narrow = await copyOf("bnb-fp4", "narrow");
  const config = await readJson(`${narrow}/config.json`);
  const write = (json: unknown) =>
    Deno.writeTextFile(`${narrow}/config.json`, JSON.stringify(json));
  await write({ ...config, intermediate_size: 64 });
  await assertRejects(
    () => loadModel(device, narrow),
    RangeError,
    'gate_proj.weight": it has shape [128,64], but config.json calls for [64,64]',
  );
  await write({ ...config, quantization_config: { quant_method: "gptq", bits: 4 } });
  await assertRejects(() => loadModel(device, narrow), TypeError, "quantized by gptq");
  await write({ ...config, quantization_config: { load_in_8bit: true } });
  await assertRejects(() => loadModel(device, narrow), TypeError, "bitsandbytes in 8 bits");
  // The tensors alone say it too.
  await write({ ...config, quantization_config: undefined });
  const model = await loadModel(device, narrow);
  assert(
    [...model.linearLayers()].every(([, layer]) =>
      layer instanceof QuantizedLinear && layer.weight instanceof FourBitTensor
    ),
  );

  const plain = await copyOf(".", "no-states");
  await Deno.writeTextFile(`${plain}/config.json`, JSON.stringify(config));
  await assertRejects(
    () => loadModel(device, plain),
    RangeError,
    "config.json says that its weights are in 4 bits, but no weight has a quant_state tensor",
  );
});

Deno.test("saveModel() refuses a model with an adapter on a layer, and leaves the folder", async () => {
  const model = randomModel(device, await readJson(`${GOLDEN}/config.json`));
  await saveModel(model, `${folder}/kept`);
  const before = await Deno.readFile(`${folder}/kept/model.safetensors`);
  const [[, layer]] = [...model.linearLayers()];
  layer.branch = { forward: (_, base) => base, tensors: () => [] };
  await assertRejects(
    () => saveModel(model, `${folder}/kept`),
    TypeError,
    'Cannot save the model: "model.layers.0.self_attn.q_proj" has an adapter',
  );
  assertEquals(await Deno.readFile(`${folder}/kept/model.safetensors`), before);
});
