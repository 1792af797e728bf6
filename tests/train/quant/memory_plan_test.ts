import { generateTokens } from "../../../train/eval/generate.ts";
import { randomModel } from "../../../train/models/load.ts";
import { planMemory } from "../../../train/quant/memory_plan.ts";
import { quantizeLayers } from "../../../train/quant/weight_only.ts";
import { PLAN_SHAPES } from "../../../cli/plan_shapes.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";
import { device } from "../../device.ts";

const MODELS = {
  llama: {
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 64,
    intermediate_size: 192,
    num_hidden_layers: 3,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    max_position_embeddings: 256,
    tie_word_embeddings: false,
  },
  qwen2: {
    model_type: "qwen2",
    vocab_size: 96,
    hidden_size: 64,
    intermediate_size: 160,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 1,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
  },
  qwen3: {
    model_type: "qwen3",
    vocab_size: 96,
    hidden_size: 64,
    intermediate_size: 160,
    num_hidden_layers: 2,
    num_attention_heads: 4,
    num_key_value_heads: 2,
    head_dim: 32,
    max_position_embeddings: 256,
    tie_word_embeddings: true,
  },
  gpt2: {
    model_type: "gpt2",
    vocab_size: 96,
    n_embd: 64,
    n_layer: 2,
    n_head: 4,
    n_positions: 256,
  },
};

for (const [name, config] of Object.entries(MODELS)) {
  Deno.test(`a plan of ${name} has the bytes of its weights and cache, and about those of its work`, async () => {
    const model = randomModel(device, config);
    const tokens = 192;
    const { parameters, schemes: [plain, int4] } = planMemory(config, {
      ...{ tokens, rest: "f32", schemes: ["f32", "int4-g32"] },
    });
    const numbers = [...model.modules()].flatMap(([, module]) => [...module.tensors()]);
    assertEquals(parameters, numbers.reduce((sum, [, own]) => sum + own.size, 0));
    assertEquals(plain.linearBytes + plain.restBytes, model.weightBytes);
    const before = device.memory.live;
    device.pool.resetPeak();
    // The last token of an answer is not seen, and takes no slot: 160 and 33 are 192.
    const prompt = Int32Array.from({ length: tokens - 32 }, (_, i) => i % 96);
    await generateTokens(model, [prompt], { maxNewTokens: 33 });
    const measured = device.memory.peak - before;
    const planned = plain.cacheBytes + plain.workBytes * prompt.length / tokens;
    // Products of models as small as these have partial sums on a GPU, which large ones have not.
    const most = device.adapter.type === "software" ? 1.2 : 2;
    const ratio = measured / planned;
    assert(ratio > 0.8 && ratio < most, `${planned} planned, ${measured} measured`);

    (await quantizeLayers(model, { kind: "int4", groupSize: 32 })).commit();
    assertEquals(int4.linearBytes + int4.restBytes, model.weightBytes);
    assertEquals(int4.restBytes, plain.restBytes);
    model.dispose();
  });
}

Deno.test("well-known models have the sizes that they are known for", () => {
  const GiB = 2 ** 30;
  // Numbers in linear layers; bytes of them in NF4, with double quantization too; those and the rest in 16 bits.
  const known: [string, number, number, number, number][] = [
    ["tinyllama-1.1b", 968_884_224, 0.508, 0.465, 0.710],
    ["llama-2-7b", 6_476_005_376, 3.393, 3.111, 3.600],
    ["llama-3.1-8b", 6_979_321_856, 3.656, 3.353, 5.311],
  ];
  for (const [name, linear, nf4, nested, whole] of known) {
    const plan = planMemory(PLAN_SHAPES[name], { schemes: ["nf4", "nf4-dq"] });
    assertEquals(plan.linearWeights, linear, name);
    const [one, two] = plan.schemes;
    const near = (found: number, wanted: number) =>
      assert(Math.abs(found / GiB - wanted) < 0.001, `${name}: ${found / GiB}, wanted ${wanted}`);
    near(one.linearBytes, nf4);
    near(two.linearBytes, nested);
    near(two.linearBytes + two.restBytes, whole);
  }
});

Deno.test("what fits is what adds up to no more than there is", () => {
  const config = PLAN_SHAPES["llama-2-7b"];
  const plan = (memory: number, tokens?: number) => planMemory(config, { memory, tokens }).schemes;
  const fitting = (own: ReturnType<typeof plan>) =>
    own.filter(({ fits }) => fits).map(({ scheme }) => scheme);
  assertEquals(fitting(plan(8e9)), ["int4", "nf4", "nf4-dq"]);
  assertEquals(fitting(plan(1e9, 1)), []);
  assertEquals(fitting(plan(40e9)), ["f32", "f16", "int8", "int4", "nf4", "nf4-dq"]);
  for (const { scheme, tokensThatFit: most } of plan(8e9)) {
    if (most === 0) continue;
    const at = (tokens: number) => plan(8e9, tokens).find((own) => own.scheme === scheme)!.fits;
    assertEquals([at(most!), at(most! + 1)], [true, false], scheme);
  }
  assertEquals(planMemory(config).schemes[0].fits, null);
  assertThrows(() => plan(8e9, 5000), RangeError, "from 1 to 4096, the model's context");
  assertThrows(() => plan(NaN), RangeError, "wanted a number above 0");
  assertThrows(() => planMemory(config, { schemes: ["int9"] }), RangeError, '"int9"');
  assertThrows(() => planMemory({ model_type: "bert" }), TypeError, "bert");
});
