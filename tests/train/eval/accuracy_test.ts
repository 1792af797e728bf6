import { tensor } from "../../../core/tensor.ts";
import { IGNORED, type Sequence } from "../../../train/data/dataset.ts";
import { evaluateAccuracy } from "../../../train/eval/accuracy.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRejects } from "../../assert.ts";
import { device, randomIntegers } from "../../device.ts";

const GOLDEN = new URL("../../golden/llama", import.meta.url).pathname;

/** The likeliest token after each of these. */
async function argmaxes(model: LanguageModel, ids: Int32Array): Promise<number[]> {
  const logits = await model.forward(tensor(device, ids, [1, ids.length])).read();
  const { vocabSize } = model.config;
  return Array.from(ids, (_, i) => {
    const row = logits.subarray(i * vocabSize, (i + 1) * vocabSize);
    return row.indexOf(Math.max(...row));
  });
}

/** Appends the model's own greedy answer to a prompt, token by token. */
async function greedy(model: LanguageModel, prompt: Int32Array, count: number): Promise<number[]> {
  const all = [...prompt];
  for (let i = 0; i < count; i++) {
    all.push((await argmaxes(model, Int32Array.from(all))).at(-1)!);
  }
  return all.slice(prompt.length);
}

/** An example whose answer is these tokens. */
function exampleOf(prompt: Int32Array, answer: readonly number[]): Sequence {
  const ids = Int32Array.of(...prompt, ...answer.slice(0, -1));
  const labels = new Int32Array(ids.length).fill(IGNORED);
  labels.set(answer, prompt.length - 1);
  return { ids, labels };
}

Deno.test("an example counts where greedy decoding gives its answer, however examples are packed", async () => {
  const model = await loadModel(device, GOLDEN);
  const examples: Sequence[] = [];
  const wanted: boolean[] = [];
  const predicted: number[][] = [];
  for (let i = 0; i < 24; i++) {
    const prompt = randomIntegers(2 + i % 7, model.config.vocabSize, 100 + i);
    const answer = await greedy(model, prompt, 1 + i % 3);
    // Two of three get a wrong token: at the beginning, or at the end.
    if (i % 3 === 1) answer[0] = (answer[0] + 1) % model.config.vocabSize;
    if (i % 3 === 2) answer[answer.length - 1] ^= 1;
    wanted.push(i % 3 === 0);
    examples.push(exampleOf(prompt, answer));
    predicted.push((await argmaxes(model, examples[i].ids)).slice(prompt.length - 1));
  }
  let nll = NaN;
  for (const shape of [{}, { length: 16, rows: 1 }, { length: 30, rows: 3 }, { rows: 100 }]) {
    const found = await evaluateAccuracy(model, examples, shape);
    assertEquals(found.isCorrect, wanted);
    assertEquals([found.correct, found.total, found.accuracy], [8, 24, 1 / 3]);
    assertEquals(found.predicted.map((tokens) => [...tokens]), predicted);
    assertEquals(found.tokens, predicted.flat().length);
    assert(Number.isNaN(nll) || Math.abs(found.nll / nll - 1) < 1e-6);
    nll = found.nll;
  }
  model.dispose();
});

Deno.test("evaluateAccuracy() says what does not fit", async () => {
  const model = await loadModel(device, GOLDEN);
  const refuses = (text: string, ...examples: Sequence[]) =>
    assertRejects(() => evaluateAccuracy(model, examples), RangeError, text);
  const good = exampleOf(Int32Array.of(1, 2), [3]);
  await refuses("an empty data set");
  await refuses("example 2: all of its labels are -100", good, exampleOf(Int32Array.of(1), []));
  await refuses("example 1: token 2 has the id 320", exampleOf(Int32Array.of(1, 320), [3]));
  await refuses("the answer of example 1: token 1 has the id 321", exampleOf(good.ids, [321]));
  await refuses("example 1: it has 130 tokens", exampleOf(new Int32Array(130), [3]));
  model.dispose();
});
