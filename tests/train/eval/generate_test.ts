import { tensor } from "../../../core/tensor.ts";
import { generate, type GenerateOptions, generateTokens } from "../../../train/eval/generate.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { Tokenizer } from "../../../train/files/tokenizer.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;
const VOCABULARY = 270;

/** A small model with large weights, so that its logits differ enough for a clear choice of tokens. */
const model = randomModel(device, {
  model_type: "llama",
  vocab_size: VOCABULARY,
  hidden_size: 32,
  intermediate_size: 64,
  num_hidden_layers: 2,
  num_attention_heads: 4,
  num_key_value_heads: 2,
  max_position_embeddings: 96,
  initializer_range: 0.5,
}, { seed: 3, trainable: "all" });

const tokens = (length: number, seed: number) => randomIntegers(length, VOCABULARY, seed);
const plain = (answers: readonly Int32Array[]) => answers.map((answer) => Array.from(answer));

/** Greedy tokens without cache and padding: the whole text through the model for each token. */
async function greedy(prompt: ArrayLike<number>, count: number): Promise<number[]> {
  const text = Array.from(prompt);
  for (let i = 0; i < count; i++) {
    const ids = tensor(device, Int32Array.from(text), [1, text.length]);
    const logits = await model.forward(ids).read();
    const last = logits.subarray(-VOCABULARY);
    text.push(last.indexOf(Math.max(...last)));
  }
  return text.slice(prompt.length);
}

for (const name of ["llama", "llama-tied", "qwen2", "qwen3", "gpt2"]) {
  Deno.test(`${name}: greedy tokens are those of transformers, alone and padded`, async () => {
    const golden = await loadModel(device, `${GOLDEN}${name}`);
    using expected = await SafetensorsFile.open(`${GOLDEN}${name}/expected.safetensors`);
    const all = new Int32Array((await expected.read("generated")).buffer);
    assertEquals(all.length, 24);
    const [prompt, answer] = [all.slice(0, 8), Array.from(all.slice(8))];
    const options = { maxNewTokens: 16 };
    assertEquals(plain(await generateTokens(golden, [prompt], options)), [answer]);
    const others = [prompt.slice(0, 3), prompt, new Int32Array(21).fill(9), prompt];
    const mixed = plain(await generateTokens(golden, others, options));
    assertEquals([mixed[1], mixed[3]], [answer, answer]);
    golden.dispose();
  });
}

Deno.test("generateTokens() gives each prompt its own answer, whatever shares its batch", async () => {
  const prompts = [12, 1, 40, 12, 7].map((length, i) => tokens(length, i));
  const expected = await Promise.all(prompts.map((prompt) => greedy(prompt, 10)));
  for (const batchSize of [1, 2, 32]) {
    const answered: number[] = [];
    const onProgress = (count: number) => void answered.push(count);
    const options = { maxNewTokens: 10, batchSize, onProgress };
    const answers = await generateTokens(model, prompts, options);
    assertEquals(plain(answers), expected, `batches of ${batchSize}`);
    assertEquals(answered, { 1: [1, 2, 3, 4, 5], 2: [2, 4, 5], 32: [5] }[batchSize]);
  }
});

Deno.test("generateTokens() draws the same tokens from the same seed", async () => {
  const prompts = [tokens(5, 1), tokens(9, 2), tokens(5, 1)];
  const draw = async (options: GenerateOptions) =>
    plain(await generateTokens(model, prompts, { temperature: 2, topK: 50, ...options }));
  const first = await draw({ seed: 1, maxNewTokens: 20 });
  assertEquals(await draw({ seed: 1, maxNewTokens: 20 }), first);
  assertEquals(await draw({ seed: 1, maxNewTokens: 20, batchSize: 1 }), first);
  assertEquals(
    (await draw({ seed: 1, maxNewTokens: 60 })).map((answer) => answer.slice(0, 20)),
    first,
    "the number of tokens changes how they are queued, not what they are",
  );
  const second = await draw({ seed: 2, maxNewTokens: 20 });
  first.forEach((answer, i) => assert(answer.join() !== second[i].join()));
  assert(first[0].join() !== first[2].join(), "each place in the list draws for itself");
});

Deno.test("generateTokens() stops at an end token, and leaves it out", async () => {
  const prompt = tokens(6, 4);
  const [whole] = plain(await generateTokens(model, [prompt], { maxNewTokens: 40 }));
  const end = whole[25];
  const wanted = whole.slice(0, whole.indexOf(end));
  const long = { maxNewTokens: 80, endTokens: [VOCABULARY + 1, end] };
  const before = device.counters.submits;
  const answers = plain(await generateTokens(model, [prompt, prompt], long));
  assertEquals(answers, [wanted, wanted]);
  assert(device.counters.submits - before < 60, "the blocks after the end are not queued");
});

Deno.test("a long prompt takes the memory of one block, and not of all", async () => {
  const extra = async (layers: number) => {
    const deep = randomModel(device, {
      model_type: "llama",
      vocab_size: 64,
      hidden_size: 32,
      intermediate_size: 128,
      num_hidden_layers: layers,
      num_attention_heads: 2,
      max_position_embeddings: 512,
    });
    const before = device.memory.live;
    device.pool.resetPeak();
    await generateTokens(deep, [Int32Array.from({ length: 384 }, (_, i) => i % 64)], {
      maxNewTokens: 2,
    });
    const cache = layers * 2 * 32 * 4 * 448;
    const found = device.memory.peak - before - cache;
    deep.dispose();
    return found;
  };
  const [one, eight] = [await extra(1), await extra(8)];
  // There is one state more: that which a block begins with.
  assert(eight - one < 1.1 * 384 * 32 * 4, `${one} bytes with one block, ${eight} with 8`);
});

Deno.test("generateTokens() makes no bind group for a token, submits several at once, and frees all", async () => {
  const run = (maxNewTokens: number) => generateTokens(model, [tokens(4, 1)], { maxNewTokens });
  await run(50);
  const { live, reserved } = device.memory;
  const warm = device.counters;
  await run(50);
  const { submits, bindGroups } = device.counters;
  assertEquals(bindGroups - warm.bindGroups, 0);
  const made = submits - warm.submits;
  // The prompt; of blocks of 15, 32 and 2 tokens the first three each, then four at a time.
  assert(made >= 21 && made <= 23, `${made} submissions for 50 tokens`);
  assertEquals([device.memory.live, device.memory.reserved], [live, reserved]);
  await run(49);
  assert(device.counters.bindGroups - bindGroups < 5, "bind groups do not depend on the tokens");
});

Deno.test("generateTokens() gives as many tokens as the context holds", async () => {
  const prompts = [tokens(96, 1), tokens(90, 2), tokens(5, 3)];
  const answers = plain(await generateTokens(model, prompts, { maxNewTokens: 20 }));
  assertEquals(answers.map(({ length }) => length), [0, 6, 20]);
  assertEquals(answers[1], await greedy(prompts[1], 6));
  assertEquals(answers[2], await greedy(prompts[2], 20));
  assertEquals(await generateTokens(model, []), []);
});

Deno.test("generate() turns text into text, with the begin token first", async () => {
  await assertRejects(() => generate(model, "a"), TypeError, "the model has no tokenizer");
  const json = trainBpe([], {
    vocabSize: VOCABULARY,
    specialTokens: ["<end>"],
    bosToken: "<end>",
  });
  model.tokenizer = new Tokenizer(json, {
    config: { "bos_token": "<end>", "eos_token": "<end>" },
  });
  const { bosId, addsBos } = model.tokenizer;
  assert(addsBos);
  const [answer] = await generateTokens(model, [[bosId!, ...model.tokenizer.encode("a cat")]]);
  const text = await generate(model, "a cat");
  assertEquals(text, model.tokenizer.decode(answer));
  assertEquals(await generate(model, ["a cat", "a"]), [text, await generate(model, "a")]);
  assertEquals(typeof await generate(model, ""), "string", "the begin token is prompt enough");
  model.tokenizer = null;
});

Deno.test("generateTokens() says what is wrong with prompts and options", async () => {
  for (
    const [prompts, options, message] of [
      [[new Int32Array(97)], {}, "the prompt has 97 tokens, but the model's context holds 96"],
      [[[1], []], {}, "prompt 2 has 0 tokens, wanted 1 to the 96 of the model's context"],
      [[[1, VOCABULARY]], {}, "the prompt has the token 270, wanted 0 to 269"],
      [[[1]], { maxNewTokens: 0 }, "maxNewTokens is 0, wanted a whole number of at least 1"],
      [[[1]], { batchSize: 1.5 }, "batchSize is 1.5"],
      [[[1]], { temperature: -1 }, "temperature -1"],
      [[[1]], { seed: 0.5 }, "seed is 0.5, wanted a whole number"],
    ] as [ArrayLike<number>[], GenerateOptions, string][]
  ) await assertRejects(() => generateTokens(model, prompts, options), RangeError, message);
});

Deno.test("generateTokens() tells of answers as they grow, block by block", async () => {
  const told: number[][][] = [[], []];
  const answers = await generateTokens(model, [[5, 6], [7]], {
    maxNewTokens: 60,
    endTokens: [],
    onTokens: (prompt, tokens) => told[prompt].push([...tokens]),
  });
  for (const [i, own] of told.entries()) {
    assertEquals(own.map(({ length }) => length), [16, 48]);
    for (const tokens of own) assertEquals(tokens, [...answers[i].slice(0, tokens.length)]);
  }
});
