/**
 * Answers that need no language model: what a fine-tuned one must beat.
 *
 * @module
 */
import type { Example } from "../data/dataset.ts";

/** How often something occurs. */
type Counts = Map<string, number>;

function increment(counts: Counts, key: string): void {
  counts.set(key, (counts.get(key) ?? 0) + 1);
}

function checkExamples(train: readonly Example[], test: readonly Example[]): void {
  if (train.length > 0 && test.length > 0) return;
  throw new RangeError(
    `Cannot compute a baseline from ${train.length} training and ${test.length} test examples: wanted at least one of each`,
  );
}

/** The share of `test` whose answer is `answerOf(prompt)`. */
function accuracyOf(test: readonly Example[], answerOf: (prompt: string) => string): number {
  return test.filter(({ prompt, answer }) => answerOf(prompt) === answer).length / test.length;
}

/** The key with the largest value, the first of equals. */
function largest(values: Iterable<readonly [string, number]>): string {
  let best: readonly [string, number] = ["", -Infinity];
  for (const entry of values) if (entry[1] > best[1]) best = entry;
  return best[0];
}

/**
 * The accuracy of always giving the answer that is most frequent in training.
 *
 * @param train where answers are counted
 * @param test what is answered
 * @returns the share of `test` that is right
 * @throws {RangeError} if either is empty
 *
 * @example
 * ```ts
 * import { majorityBaseline } from "@nibble/nibble";
 *
 * const examples = ["yes", "no", "yes"].map((answer) => ({ prompt: "?", answer }));
 * console.log(majorityBaseline(examples, examples)); // 0.6666666666666666
 * ```
 */
export function majorityBaseline(train: readonly Example[], test: readonly Example[]): number {
  checkExamples(train, test);
  const counts: Counts = new Map();
  for (const { answer } of train) increment(counts, answer);
  const answer = largest(counts);
  return accuracyOf(test, () => answer);
}

/** What is known of a class: how many of its prompts, and how many words, of each and in all. */
interface ClassCounts {
  prompts: number;
  words: number;
  readonly byWord: Counts;
}

function wordsOf(text: string): string[] {
  return text.toLowerCase().match(/\p{L}+/gu) ?? [];
}

/** Words that every prompt has are the form of the question, such as "Category:", and say nothing. */
function informativeWords(prompts: readonly (readonly string[])[]): Set<string> {
  const occurrences: Counts = new Map();
  for (const words of prompts) for (const word of new Set(words)) increment(occurrences, word);
  return new Set([...occurrences].filter(([, n]) => n < prompts.length).map(([word]) => word));
}

/**
 * The accuracy of a multinomial naive Bayes classifier on the prompts' words, with one class for each answer: the answer with the
 * largest `log P(answer) + Σ log P(word | answer)`, where every word is counted once more than it occurs (Laplace). Words are runs
 * of letters in lower case; those that no training prompt has, or all of them, are passed over.
 * Manning, Raghavan and Schütze, "Introduction to Information Retrieval", section 13.2.
 *
 * @param train where words are counted
 * @param test what is answered
 * @returns the share of `test` that is right
 * @throws {RangeError} if either is empty
 *
 * @example
 * ```ts
 * import { naiveBayesBaseline } from "@nibble/nibble";
 *
 * const train = [{ prompt: "a small dog", answer: "animal" }, { prompt: "a small car", answer: "thing" }];
 * console.log(naiveBayesBaseline(train, [{ prompt: "the red car", answer: "thing" }])); // 1
 * ```
 */
export function naiveBayesBaseline(train: readonly Example[], test: readonly Example[]): number {
  checkExamples(train, test);
  const prompts = train.map(({ prompt }) => wordsOf(prompt));
  const vocabulary = informativeWords(prompts);
  const classes = new Map<string, ClassCounts>();
  for (const [i, { answer }] of train.entries()) {
    let own = classes.get(answer);
    if (!own) classes.set(answer, own = { prompts: 0, words: 0, byWord: new Map() });
    own.prompts++;
    for (const word of prompts[i]) {
      if (!vocabulary.has(word)) continue;
      own.words++;
      increment(own.byWord, word);
    }
  }
  return accuracyOf(test, (prompt) => {
    const words = wordsOf(prompt).filter((word) => vocabulary.has(word));
    return largest(Array.from(classes, ([answer, own]) => {
      let score = Math.log(own.prompts / train.length);
      for (const word of words) {
        score += Math.log(((own.byWord.get(word) ?? 0) + 1) / (own.words + vocabulary.size));
      }
      return [answer, score] as const;
    }));
  });
}
