// deno-lint-ignore-file camelcase -- the names are those of config.json
import { Random } from "../../../core/random.ts";
import {
  chooseBits,
  measurePolicies,
  measureSensitivity,
  type Sensitivity,
} from "../../../train/eval/sensitivity.ts";
import { evaluatePerplexity } from "../../../train/eval/perplexity.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import type { QuantizationPolicy } from "../../../train/quant/policy.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../../assert.ts";
import { device } from "../../device.ts";

const ASSETS = new URL("../../../assets/", import.meta.url).pathname;
const model = await loadModel(device, `${ASSETS}base`);
const text = await Deno.readTextFile(`${ASSETS}wordnet/heldout.txt`);
const all = model.tokenizer!.encode(text.slice(0, 60_000));

/** Attention and MLP of each block. */
const half = (path: string) => path.slice(0, path.lastIndexOf("."));

/** A choice at random that takes no more bytes, and little less. */
function randomPolicy({ units }: Sensitivity, bytes: number, seed: number): QuantizationPolicy {
  const random = new Random(seed);
  const smallest = units.map(({ schemes }) => schemes.reduce((a, b) => a.bytes < b.bytes ? a : b));
  let spare = bytes - smallest.reduce((sum, own) => sum + own.bytes, 0);
  const chosen = [...smallest];
  for (const u of random.permutation(units.length)) {
    const { schemes } = units[u];
    const other = schemes[random.integer(schemes.length)];
    const extra = other.bytes - chosen[u].bytes;
    if (extra > spare) continue;
    chosen[u] = other;
    spare -= extra;
  }
  return { rules: units.map(({ layers }, u) => ({ layers, scheme: chosen[u].scheme })) };
}

Deno.test("bits that follow sensitivity beat uniform bits, and random ones, of the same size", async () => {
  const measured = await measureSensitivity(model, {
    ids: all.subarray(0, 1024),
    window: 128,
    schemes: ["int8", "int4-g32", "int4", "nf4-dq"],
    group: half,
    places: 256,
  });
  assertEquals([measured.units.length, measured.places], [8, 256]);
  for (const { name, schemes: [int8, small, int4] } of measured.units) {
    assert(int8.divergence > 0 && int8.divergence < small.divergence, name);
    assert(small.divergence < int4.divergence && small.bytes > int4.bytes, name);
  }
  const bytes = measured.units.reduce((sum, { schemes }) => sum + schemes[1].bytes, 0);
  const exact = chooseBits(measured, { bytes });
  const greedy = chooseBits(measured, { bytes, method: "greedy" });
  assert(exact.cost <= greedy.cost && exact.bytes <= bytes);
  // INT4 as it is mostly has 64 weights to a scale: of the same size is that with 32.
  const uniform = { rules: [], otherwise: "int4-g32" };
  const random = [1, 2, 3].map((seed) => randomPolicy(measured, bytes, seed));
  // On a text that was not looked at.
  const [mixed, greedily, int4, ...others] = await measurePolicies(
    model,
    [exact.policy, greedy.policy, uniform, ...random],
    { ids: all.subarray(4096, 4096 + 4096), window: 128, places: 2048 },
  );
  assert(mixed.bytes <= int4.bytes && mixed.bytes === exact.bytes);
  for (const own of [mixed, greedily]) {
    assert(own.divergence < int4.divergence, `${own.divergence}, uniform ${int4.divergence}`);
    assert(own.perplexity < int4.perplexity, `${own.perplexity}, uniform ${int4.perplexity}`);
    for (const other of others) assert(own.divergence < other.divergence);
  }
});

Deno.test("perplexity and its change are those of the whole text where all places are looked at", async () => {
  const ids = all.subarray(0, 512);
  const before = await evaluatePerplexity(model, ids, { window: 128 });
  const int4 = { rules: [], otherwise: "int4" };
  const [shift] = await measurePolicies(model, [int4], { ids, window: 128, places: 512 });
  const replaced = await quantizeLayers(model, { kind: "int4" });
  const after = await evaluatePerplexity(model, ids, { window: 128 });
  replaced.restore();
  assert(Math.abs(shift.perplexity / after.perplexity - 1) < 1e-5);
  const change = Math.log(after.perplexity / before.perplexity);
  assert(Math.abs(shift.lossChange - change) < 1e-5, `${shift.lossChange}, wanted ${change}`);
});

Deno.test("layers are grouped by block and type, and the model is as before", async () => {
  const ids = all.subarray(0, 64);
  const before = [...model.linearLayers()].map(([, layer]) => layer);
  const count = async (group: "layer" | "block" | "type") =>
    (await measureSensitivity(model, { ids, schemes: ["nf4"], group, places: 4 })).units
      .map(({ name, layers }) => `${name}:${layers.length}`);
  assertEquals((await count("block"))[1], "model.layers.1:7");
  assertEquals(await count("type"), [
    ...["q_proj", "k_proj", "v_proj", "o_proj"].map((name) => `self_attn.${name}:4`),
    ...["gate_proj", "up_proj", "down_proj"].map((name) => `mlp.${name}:4`),
  ]);
  [...model.linearLayers()].forEach(([path, layer], i) => assert(layer === before[i], path));
});

Deno.test("what cannot be measured or chosen is refused", async () => {
  const measure = (ids: Int32Array, schemes: string[], more = {}) => () =>
    measureSensitivity(model, { ids, schemes, ...more });
  await assertRejects(measure(all.subarray(0, 1), ["int4"]), RangeError, "1 tokens");
  await assertRejects(measure(all.subarray(0, 0), ["int4"]), RangeError, "0 tokens");
  await assertRejects(measure(all.subarray(0, 64), ["int9"]), RangeError, '"int9"');
  await assertRejects(
    measure(all.subarray(0, 64), ["int4"], { places: 0 }),
    RangeError,
    "0 places",
  );
  const ids = all.subarray(0, 64);
  const some = await measureSensitivity(model, {
    ids,
    schemes: ["int4"],
    group: "type",
    places: 4,
  });
  assertThrows(() => chooseBits(some, { bits: 4 }), RangeError, "the smallest of the schemes take");
  assertThrows(() => chooseBits(some, {}), TypeError, "either bits or bytes");
});

Deno.test("the embedding and the output layer are measured too, and stay what they were", async () => {
  const tiny = {
    vocab_size: 64,
    hidden_size: 64,
    intermediate_size: 128,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    max_position_embeddings: 64,
  };
  const models = {
    llama: [{ ...tiny, model_type: "llama", tie_word_embeddings: false }, [
      "model.embed_tokens",
      "lm_head",
    ]],
    qwen3: [
      { ...tiny, ...{ model_type: "qwen3", num_key_value_heads: 1, head_dim: 32 } },
      ["model.embed_tokens", "lm_head"],
    ],
    gpt2: [{ model_type: "gpt2", vocab_size: 64, n_embd: 64, n_layer: 1, n_head: 2 }, [
      "transformer.wte",
      "transformer.wpe",
    ]],
  } as const;
  const ids = Int32Array.from({ length: 128 }, (_, i) => (7 * i * i) % 64);
  for (const [json, names] of Object.values(models)) {
    const own = randomModel(device, json, { seed: 2 });
    const options = { ids, window: 32, places: 32, schemes: ["f32", "int8", "int4-g32"] };
    const before = await evaluatePerplexity(own, ids, { window: 32 });
    const { others, units } = await measureSensitivity(own, { ...options, others: true });
    assertEquals(others.map(({ name }) => name), names as unknown as string[]);
    for (const { name, weights, schemes: [plain, int8, int4] } of others) {
      assertEquals([plain.divergence, plain.bytes, plain.bitsPerWeight], [0, 4 * weights, 32]);
      assert(int8.divergence > 0 && int8.divergence < int4.divergence, name);
      assertEquals(int4.bytes, weights / 2 + 4.5 * weights / 32);
    }
    assertEquals(await evaluatePerplexity(own, ids, { window: 32 }), before);
    // They are not among what is chosen for.
    const { policy } = chooseBits({ perplexity: 1, places: 1, weights: 1, units, others }, {
      bytes: 1e9,
    });
    assert(
      policy.rules.every(({ layers }) => ![layers].flat().some((l) => /embed|wte|head/.test(l))),
    );
    assertEquals((await measureSensitivity(own, options)).others, []);
    own.dispose();
  }
});
