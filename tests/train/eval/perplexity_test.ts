import { Random } from "../../../core/random.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { evaluatePerplexity } from "../../../train/eval/perplexity.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel, randomModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

const GOLDEN = new URL("../../golden/llama", import.meta.url).pathname;

/** So many rows of logits at a time fit every adapter, even for the large vocabulary below. */
const ROWS = 150;

/** The rule of `evaluatePerplexity` from the model's own logits, window by window, in 64 bits. */
async function direct(
  model: LanguageModel,
  ids: Int32Array,
  window: number,
): Promise<{ nll: number; tokens: number }> {
  let [nll, tokens] = [0, 0];
  const { vocabSize } = model.config;
  for (let from = 0; from < ids.length; from += window) {
    const own = ids.slice(from, from + window);
    if (own.length < 2) continue;
    const input = tensor(device, own, [1, own.length]);
    for (let at = 0; at + 1 < own.length; at += ROWS) {
      const count = Math.min(ROWS, own.length - 1 - at);
      const places = tensor(device, Int32Array.from({ length: count }, (_, i) => at + i));
      const logits = await model.forward(input, { places }).read();
      for (let i = 0; i < count; i++) {
        const row = Array.from(logits.subarray(i * vocabSize, (i + 1) * vocabSize));
        const top = row.reduce((a, b) => Math.max(a, b));
        const mass = row.reduce((sum, x) => sum + Math.exp(x - top), 0);
        nll += top + Math.log(mass) - row[own[at + i + 1]];
        tokens++;
      }
    }
  }
  return { nll, tokens };
}

function assertNear(actual: number, expected: number, bound: number): void {
  const error = Math.abs(actual - expected) / Math.abs(expected);
  assert(error <= bound, `${actual}, expected ${expected}: relative error ${error}`);
}

Deno.test("perplexity is that of the model's logits, window by window, in batches of any size", async () => {
  const model = await loadModel(device, GOLDEN);
  const ids = randomIntegers(300, model.config.vocabSize, 7);
  // 300 tokens: windows that end exactly, a short last one, a last one of 1 token (which predicts nothing), one window.
  for (const [window, length] of [[50, 300], [128, 300], [23, 300], [13, 300], [128, 90]]) {
    const text = ids.subarray(0, length);
    const wanted = await direct(model, text, window);
    for (const batchSize of [1, 3, undefined]) {
      const found = await evaluatePerplexity(model, text, { window, batchSize });
      assertEquals(found.tokens, wanted.tokens);
      assertNear(found.nll, wanted.nll, 1e-6);
      assertEquals(found.perplexity, Math.exp(found.nll / found.tokens));
    }
  }
  model.dispose();
});

Deno.test("the window is the context by default, and progress ends with every predicted token", async () => {
  const model = await loadModel(device, GOLDEN);
  const ids = randomIntegers(1000, model.config.vocabSize, 8);
  const told: [number, number][] = [];
  const onProgress = (...news: [number, number]) => told.push(news);
  const found = await evaluatePerplexity(model, ids, { batchSize: 2, onProgress });
  const wanted = await evaluatePerplexity(model, ids, { window: model.config.contextLength });
  assertEquals(found.tokens, wanted.tokens);
  assertNear(found.nll, wanted.nll, 1e-6);
  assertEquals(told.at(-1), [found.tokens, found.tokens]);
  assert(told.every(([done], i) => i === 0 || done > told[i - 1][0]));
  model.dispose();
});

Deno.test("logits that are too large for one piece are computed in several", async () => {
  // 64 MiB, the most on software, are 256 rows of this vocabulary: a window of 600 takes three passes.
  const model = randomModel(device, {
    model_type: "llama",
    vocab_size: 65536,
    hidden_size: 8,
    intermediate_size: 16,
    num_hidden_layers: 1,
    num_attention_heads: 1,
    max_position_embeddings: 600,
    initializer_range: 0.5,
  });
  const random = new Random(3);
  const ids = Int32Array.from({ length: 600 }, () => random.integer(65536));
  const found = await evaluatePerplexity(model, ids);
  const wanted = await direct(model, ids, 600);
  assertEquals(found.tokens, 599);
  assertNear(found.nll, wanted.nll, 1e-6);
  model.dispose();
});

Deno.test("adapters are not in training while they are evaluated, and are again afterwards", async () => {
  const model = await loadModel(device, GOLDEN);
  const adapter = { training: true, beginStep() {} };
  const seen: boolean[] = [];
  model.adapters.add(adapter);
  const [[, layer]] = model.linearLayers();
  const forward = (_: Tensor, base: Tensor) => {
    seen.push(adapter.training);
    return base;
  };
  layer.branch = { forward, tensors: () => [] };
  await evaluatePerplexity(model, [1, 2, 3]);
  assertEquals([seen, adapter.training], [[false], true]);
  model.dispose();
});

Deno.test("evaluation gives its memory back", async () => {
  const model = await loadModel(device, GOLDEN);
  const ids = randomIntegers(200, model.config.vocabSize, 9);
  await evaluatePerplexity(model, ids, { window: 32 });
  const before = device.memory.live;
  for (const window of [16, 48, 64]) await evaluatePerplexity(model, ids, { window });
  assertEquals(device.memory.live, before);
  model.dispose();
});

Deno.test("evaluatePerplexity() says what does not fit", async () => {
  const model = await loadModel(device, GOLDEN);
  const ids = Int32Array.of(1, 2, 3);
  const refuses = (text: string, own: ArrayLike<number>, options = {}) =>
    assertRejects(() => evaluatePerplexity(model, own, options), RangeError, text);
  await refuses("of 1 tokens: wanted at least 2", [5]);
  await refuses(
    "Cannot evaluate in windows of 1 tokens: wanted a whole number from 2 to 128, the model's context; choose",
    ids,
    { window: 1 },
  );
  await refuses("windows of 129 tokens", ids, { window: 129 });
  await refuses("0 windows at a time", ids, { batchSize: 0 });
  await refuses("token 2 has the id 320, but the model's vocabulary has 320", [1, 320]);
  await refuses("token 1 has the id -1", [-1, 2]);
  model.dispose();
});
