import { Random } from "../../../core/random.ts";
import { type Example, readJsonl } from "../../../train/data/dataset.ts";
import { majorityBaseline, naiveBayesBaseline } from "../../../train/eval/baselines.ts";
import { assertEquals, assertThrows } from "../../assert.ts";

const WORDNET = new URL("../../../assets/wordnet/", import.meta.url).pathname;

const percents = (share: number) => (100 * share).toFixed(1);

Deno.test("the baselines on WordNet's categories", async () => {
  const train = await readJsonl(`${WORDNET}train.jsonl`);
  const test = await readJsonl(`${WORDNET}test.jsonl`);
  assertEquals(percents(majorityBaseline(train, test)), "24.6");
  assertEquals(percents(naiveBayesBaseline(train, test)), "88.8");
  const order = new Random(0).permutation(train.length);
  const some = Array.from(order.subarray(0, 2300), (i) => train[i]);
  assertEquals(percents(naiveBayesBaseline(some, test)), "74.4");
});

Deno.test("naive Bayes by hand: priors, one added to every count, unknown and constant words passed over", () => {
  const example = (prompt: string, answer: string): Example => ({ prompt, answer });
  const train = [
    example("red red Kind:", "a"),
    example("blue Kind:", "a"),
    example("Blue green, Kind:", "b"),
  ];
  // Of a: 3 words, prior 2/3; of b: 2 words, prior 1/3; 3 words known.
  const answerIs = (prompt: string, answer: string) =>
    assertEquals(naiveBayesBaseline(train, [example(prompt, answer)]), 1);
  answerIs("kind: unheard", "a"); // 2/3 against 1/3
  answerIs("blue kind:", "a"); // 2/3 · 2/6 against 1/3 · 2/5
  answerIs("green kind:", "b"); // 2/3 · 1/6 against 1/3 · 2/5
  answerIs("red GREEN kind:", "a"); // 2/3 · 3/6 · 1/6 against 1/3 · 1/5 · 2/5
});

Deno.test("baselines need examples", () => {
  const one = [{ prompt: "a", answer: "b" }];
  assertThrows(() => majorityBaseline([], one), RangeError, "0 training and 1 test examples");
  assertThrows(() => naiveBayesBaseline(one, []), RangeError, "1 training and 0 test examples");
});
