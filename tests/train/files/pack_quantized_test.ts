// deno-lint-ignore-file camelcase -- the names are those of the file
import { integerConfig, readIntegerConfig } from "../../../train/files/compressed_config.ts";
import { readInteger, storeInteger } from "../../../train/files/pack_quantized.ts";
import {
  openCheckpoint,
  type TensorData,
  writeSafetensors,
} from "../../../train/files/safetensors.ts";
import type { StoredInteger } from "../../../train/files/stored_integer.ts";
import type { IntegerTensor, IntegerType } from "../../../kernels/quant/integer.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { saveModel } from "../../../train/models/save.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { quantizeByPolicy } from "../../../train/quant/policy.ts";
import { tensor } from "../../../core/tensor.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../../assert.ts";
import { device, randomIntegers, randomNumbers } from "../../device.ts";
import { withFolder } from "../../with_folder.ts";

function randomWeight(
  type: IntegerType,
  [rows, columns]: readonly [number, number],
  groupSize: number,
  symmetric: boolean,
): StoredInteger {
  const levels = 2 ** Number(type.slice(3));
  const groups = Math.ceil(columns / groupSize);
  const zeros = randomIntegers(rows * groups, levels, 2);
  const steps = randomNumbers(rows * groups, 3);
  const scales = Float32Array.from(
    { length: 2 * rows * groups },
    (_, i) => i % 2 === 0 ? steps[i >> 1] : symmetric ? levels / 2 : zeros[i >> 1],
  );
  const codes = Uint8Array.from(randomIntegers(rows * columns, levels, 1));
  return { type, shape: [rows, columns], groupSize, codes, scales };
}

const SHAPE = { dtype: "I64", shape: [2], data: BigInt64Array.of(2n, 5n) };

Deno.test("packed integers lie as compressed-tensors packs them", () => {
  // Its own example: 1 and 2 in 8 bits are 129 and 130, together 33409.
  const codes = Uint8Array.of(129, 130, 0, 0, 255, 1, 2, 3, 4, 5);
  const scales = Float32Array.of(0.5, 128, 0.25, 128);
  const int8 = storeInteger("w", { type: "int8", shape: [2, 5], groupSize: 5, codes, scales });
  assertEquals([...int8.keys()], ["w_packed", "w_scale", "w_shape"]);
  assertEquals(int8.get("w_packed"), {
    dtype: "I32",
    shape: [2, 2],
    data: Int32Array.of(33409, 255, 0x04030201, 5),
  });
  assertEquals(int8.get("w_scale"), {
    dtype: "F32",
    shape: [2, 1],
    data: Float32Array.of(0.5, 0.25),
  });
  assertEquals(int8.get("w_shape"), SHAPE);
  // Zeros of INT4: those of eight rows in a word for each group.
  const zeros = [1, 2, 3, 4, 5, 6];
  const three = Float32Array.from(zeros.flatMap((zero) => [1, zero]));
  const nibbles = { groupSize: 4, codes: new Uint8Array(3 * 8), scales: three };
  const int4 = storeInteger("w", { type: "int4", shape: [3, 8], ...nibbles });
  assertEquals(int4.get("w_zero_point"), {
    dtype: "I32",
    shape: [1, 2],
    data: Int32Array.of(0x531, 0x642),
  });
  // As its version 0.20 packs them: codes of 3 bits may lie across words, and zeros, which go down, too.
  const rows = Array.from({ length: 11 }, (_, row) => [1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3][row]);
  const pairs = [1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6, 7, 0, 1, 2, 3, 4, 5, 6];
  const int3 = storeInteger("w", {
    type: "int3",
    shape: [11, 13],
    groupSize: 8,
    codes: Uint8Array.from(rows.flatMap(() => [3, 0, 5, 2, 7, 4, 1, 6, 3, 0, 5, 2, 7])),
    scales: Float32Array.from(pairs.flatMap((zero) => [1, zero])),
  });
  const words = int3.get("w_packed")!.data as Int32Array;
  assertEquals([words.length, words[20], words[21]], [22, 0x43c67543, 0x75]);
  assertEquals(int3.get("w_zero_point"), {
    dtype: "I32",
    shape: [2, 2],
    data: Int32Array.of(0x59f59f59, 0xa21a21a2, 1, 1),
  });
  const twos = Uint8Array.from({ length: 18 }, (_, i) => (3 * i + 1) % 4);
  const int2 = { groupSize: 18, codes: twos, scales: Float32Array.of(1, 2) };
  assertEquals(
    storeInteger("w", { type: "int2", shape: [1, 18], ...int2 }).get("w_packed")!.data,
    Int32Array.of(0xb1b1b1b1, 1),
  );
});

/** The same with zeros between whole numbers: floats of 16 bits hold them where they were in the middle. */
function scaled(stored: StoredInteger): StoredInteger {
  const isMiddle = stored.scales[1] === 2 ** (Number(stored.type.slice(3)) - 1) &&
    stored.scales[3] === stored.scales[1];
  const scales = stored.scales.map((value, i) =>
    i % 2 === 0 ? value : value + (isMiddle ? 0.5 : 0.1)
  );
  return { ...stored, scales };
}

Deno.test("packed integers are read as they were stored", () =>
  withFolder(async (folder) => {
    for (const type of ["int8", "int4", "int3", "int2"] as const) {
      for (const symmetric of [true, false]) {
        for (const [rows, columns, groupSize] of [[13, 40, 16], [8, 64, 64], [3, 33, 8]] as const) {
          const stored = randomWeight(type, [rows, columns], groupSize, symmetric);
          await writeSafetensors(`${folder}/model.safetensors`, storeInteger("w", stored));
          using source = await openCheckpoint(folder);
          assertEquals(source.entries.has("w_zero_point"), !symmetric);
          assertEquals(await readInteger(source, "w", [groupSize], type), stored);
          const between = scaled(stored);
          await writeSafetensors(`${folder}/model.safetensors`, storeInteger("w", between));
          using again = await openCheckpoint(folder);
          assertEquals(again.entries.get("w_zero_point")!.dtype, symmetric ? "F16" : "F32");
          assertEquals(await readInteger(again, "w", [groupSize], type), between);
          if (columns > 33) assertEquals(await readInteger(source, "w", [groupSize]), stored);
        }
      }
    }
  }));

const JSONS = {
  llama: {
    model_type: "llama",
    vocab_size: 64,
    hidden_size: 80,
    intermediate_size: 96,
    num_hidden_layers: 2,
    num_attention_heads: 4,
  },
  gpt2: { model_type: "gpt2", vocab_size: 64, n_embd: 80, n_layer: 2, n_head: 4 },
};

for (const kind of ["llama", "gpt2"] as const) {
  Deno.test(`a ${kind} in integers and f32 by a policy is saved, and loaded to the same bytes`, () =>
    withFolder(async (folder) => {
      const model = randomModel(device, JSONS[kind], { seed: 1 });
      const [first, second, third, fourth] = [...model.linearLayers()].map(([path]) => path);
      const rules = [
        { layers: first, scheme: "int8" },
        { layers: second, scheme: "f32" },
        { layers: third, scheme: "int3" },
        { layers: fourth, scheme: "int2-g16" },
      ];
      (await quantizeByPolicy(model, { rules, otherwise: "int4-g32" })).commit();
      await saveModel(model, `${folder}/model`);
      const back = await loadModel(device, `${folder}/model`);
      const layers = new Map(back.linearLayers());
      for (const [path, layer] of model.linearLayers()) {
        const other = layers.get(path)!;
        assertEquals(other instanceof QuantizedLinear, path !== second);
        if (!(layer instanceof QuantizedLinear && other instanceof QuantizedLinear)) continue;
        const [a, b] = [layer.weight as IntegerTensor, other.weight as IntegerTensor];
        assertEquals([b.scheme, b.groupSize, b.bytes], [a.scheme, a.groupSize, a.bytes]);
        assertEquals(await b.packed.read(), await a.packed.read());
        assertEquals(await b.scales.read(), await a.scales.read());
      }
      const ids = tensor(device, Int32Array.of(5, 17, 3), [1, 3]);
      assertEquals(await back.forward(ids).read(), await model.forward(ids).read());
      const bytes = await Deno.readFile(`${folder}/model/model.safetensors`);
      await saveModel(back, `${folder}/again`);
      assertEquals(await Deno.readFile(`${folder}/again/model.safetensors`), bytes);
      const config = JSON.parse(await Deno.readTextFile(`${folder}/model/config.json`));
      const { config_groups: groups, ignore } = config.quantization_config;
      assertEquals(ignore, [second, "lm_head"]);
      assertEquals(groups.group_0.targets, [first]);
      assertEquals([groups.group_0.weights.num_bits, groups.group_0.weights.strategy], [
        8,
        "channel",
      ]);
      assertEquals([groups.group_3.weights.group_size, groups.group_3.weights.symmetric], [
        32,
        false,
      ]);
      const plain = await loadModel(device, `${folder}/model`, { dequantize: true });
      assert([...plain.linearLayers()].every(([, layer]) => !(layer instanceof QuantizedLinear)));

      const load = (options: Parameters<typeof loadModel>[2]) => () =>
        loadModel(device, `${folder}/model`, options);
      await assertRejects(
        load({ quantize: "nf4" }),
        RangeError,
        "it is stored as int8 in groups of",
      );
      await assertRejects(
        load({ trainable: "all" }),
        TypeError,
        "is stored as integers, and frozen",
      );
      await Deno.writeTextFile(
        `${folder}/model/config.json`,
        JSON.stringify({ ...config, quantization_config: undefined }),
      );
      await assertRejects(load({}), RangeError, "config.json has no quantization_config for those");
    }));
}

Deno.test("packed integers that do not fit each other are refused", () =>
  withFolder(async (folder) => {
    const stored = randomWeight("int4", [8, 64], 16, false);
    const whole = storeInteger("w", stored);
    const cases: [string, TensorData | null, string][] = [
      ["w_shape", null, 'no "w_shape" with two sizes'],
      ["w_shape", SHAPE, "wanted I32 with codes of 8, 4, 3 or 2 bits"],
      ["w_scale", null, "its scales are missing"],
      ["w_scale", { dtype: "F32", shape: [8, 3], data: new Float32Array(24) }, "it has 3 scales"],
      [
        "w_scale",
        { dtype: "F32", shape: [8, 4], data: new Float32Array(32).fill(NaN) },
        "a scale is NaN",
      ],
      ["w_zero_point", { dtype: "I32", shape: [1, 3], data: new Int32Array(3) }, "its zero points"],
      ["w_g_idx", { dtype: "I32", shape: [64], data: new Int32Array(64) }, "in another order"],
    ];
    for (const [name, data, message] of cases) {
      const tensors = new Map(whole);
      if (data) tensors.set(name, data);
      else tensors.delete(name);
      await writeSafetensors(`${folder}/model.safetensors`, tensors);
      using source = await openCheckpoint(folder);
      await assertRejects(() => readInteger(source, "w", [16]), Error, message);
    }
    // As others write it: scales in 16 bits.
    const symmetric = storeInteger("w", randomWeight("int4", [8, 64], 16, true));
    const halves = { dtype: "F16", shape: [8, 4], data: new Float16Array(32).fill(0.5) };
    await writeSafetensors(
      `${folder}/model.safetensors`,
      new Map(symmetric).set("w_scale", halves),
    );
    using source = await openCheckpoint(folder);
    const { scales } = await readInteger(source, "w", [128, 16]);
    assert(scales.every((value, i) => value === (i % 2 === 0 ? 0.5 : 8)));
  }));

Deno.test("what config.json says of integers is read, or refused with a reason", () => {
  const stored = randomWeight("int4", [8, 64], 16, false);
  const layer = { path: "a", layout: "pack-quantized", stored, inputs: null } as const;
  const json = { quantization_config: integerConfig([layer], []) };
  const own = readIntegerConfig(json, "config.json")!;
  assertEquals([own.groupSizes, own.typeOf("a"), own.inputsOf("a")], [[16], "int4", null]);
  assertEquals(own.typeOf("lm_head"), undefined);
  assertEquals(readIntegerConfig({}, "config.json"), null);
  const bitsAndBytes = { quantization_config: { quant_method: "bitsandbytes" } };
  assertEquals(readIntegerConfig(bitsAndBytes, "config.json"), null);

  // As others write W8A8: one group names a class, another a pattern.
  const dynamic = { num_bits: 8, type: "int", symmetric: true, strategy: "token", dynamic: true };
  const fixed = { num_bits: 8, type: "int", symmetric: false, strategy: "tensor", dynamic: false };
  const weights = { num_bits: 8, type: "int", symmetric: true, strategy: "channel" };
  const read = (groups: unknown, more = {}) =>
    readIntegerConfig({
      quantization_config: {
        quant_method: "compressed-tensors",
        format: "int-quantized",
        config_groups: groups,
        ...more,
      },
    }, "c");
  const theirs = read({
    group_0: { targets: ["re:.*down_proj$"], weights, input_activations: dynamic },
    group_1: { targets: ["Linear"], weights, input_activations: fixed },
  }, { ignore: ["re:.*layers\\.3\\..*"] })!;
  assertEquals(theirs.inputsOf("model.layers.0.mlp.down_proj"), {
    scheme: { bits: 8, kind: "symmetric" },
    dynamic: true,
  });
  assertEquals(theirs.inputsOf("model.layers.0.mlp.up_proj"), {
    scheme: { bits: 8, kind: "asymmetric", levels: "signed" },
    dynamic: false,
  });
  assertEquals(theirs.inputsOf("model.layers.3.mlp.up_proj"), null);

  const cases: [unknown, string][] = [
    [{ weights, input_activations: { ...dynamic, type: "float" } }, "has input_activations"],
    [{ weights, input_activations: { ...dynamic, strategy: "group" } }, "has input_activations"],
    [{ weights: { ...weights, type: "float" } }, "wanted whole numbers of 8, 4, 3 or 2 bits"],
    [{ weights, output_activations: fixed }, "quantizes what layers give"],
    [{ weights, format: "float-quantized" }, 'has the format "float-quantized"'],
  ];
  for (const [group, message] of cases) {
    assertThrows(() => read({ group_0: group }), TypeError, message);
  }
  const nibble = { inputs: { group_0: { bits: 8, kind: "odd" } } };
  const group_0 = { targets: ["Linear"], weights, input_activations: dynamic };
  assertThrows(() => read({ group_0 }, { nibble }), TypeError, "wanted bits, kind and levels");
});
