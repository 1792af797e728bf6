/**
 * Accuracy: how often a model answers exactly as wanted.
 *
 * @module
 */
import { IGNORED, type Sequence } from "../data/dataset.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { budgetOf, checkIds, type EvaluationProgress, score } from "./score.ts";

/** How sequences are batched for `evaluateAccuracy`. The result is the same but for rounding. */
export interface AccuracyOptions {
  /** Tokens in a row, which may hold several sequences; by default 256, or as many as the longest has. */
  readonly length?: number;
  /** Rows in a batch; by default as many as fit. */
  readonly rows?: number;
  /** Told how far the work is. */
  readonly onProgress?: EvaluationProgress;
}

/** What `evaluateAccuracy` measures. */
export interface Accuracy {
  /** Examples that are answered exactly. */
  readonly correct: number;
  /** Examples in all. */
  readonly total: number;
  /** `correct / total`. */
  readonly accuracy: number;
  /** The sum of `−log p(label)` over all labels, in nats. */
  readonly nll: number;
  /** How many labels there are. */
  readonly tokens: number;
  /** For each example, whether it is answered exactly. */
  readonly isCorrect: readonly boolean[];
  /**
   * For each example the likeliest token at each label, i32 [labels], given the right tokens before it. Up to the first that is
   * wrong, and including it, these are the tokens that the model would answer.
   */
  readonly predicted: readonly Int32Array[];
}

/** Several short examples stand side by side in a row of this length. */
const DEFAULT_LENGTH = 256;

function checkSequences(model: LanguageModel, sequences: readonly Sequence[]): void {
  const { contextLength } = model.config;
  if (sequences.length === 0) {
    throw new RangeError("Cannot evaluate an empty data set: wanted at least one example");
  }
  for (const [i, { ids, labels }] of sequences.entries()) {
    const where = `example ${i + 1}`;
    if (ids.length > contextLength) {
      throw new RangeError(
        `Cannot evaluate ${where}: it has ${ids.length} tokens, but the model's context holds ${contextLength}; shorten it`,
      );
    }
    const wanted = labels.filter((label) => label !== IGNORED);
    if (wanted.length === 0) {
      throw new RangeError(
        `Cannot evaluate ${where}: all of its labels are ${IGNORED}, wanted the tokens of an answer`,
      );
    }
    checkIds(model, ids, where);
    checkIds(model, wanted, `the answer of ${where}`);
  }
}

/**
 * The share of examples that a model answers exactly, token for token, and ends. Every label is predicted given the right tokens
 * before it, and must be the likeliest token there. That is the same as asking the model for a greedy answer and comparing: as
 * long as it is right so far, both see the same tokens, and where it first goes wrong, both say no. Dropout is off.
 *
 * @param model the model, with its adapters
 * @param sequences examples as `tokenizeExamples` gives them: labels on the answer and the end token
 * @param options how they are batched
 * @throws {RangeError} if there is no example, one does not fit the context or has no label, or an id is beyond the vocabulary
 *
 * @example
 * ```ts
 * import { evaluateAccuracy, openDevice, randomModel, Tokenizer, tokenizeExamples, trainBpe } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 257,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] });
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>" } });
 * const examples = [{ prompt: "2 + 2 =", answer: " 4" }, { prompt: "2 + 3 =", answer: " 5" }];
 * const result = await evaluateAccuracy(model, tokenizeExamples(tokenizer, examples));
 * console.log(result.accuracy, result.predicted.map((tokens) => tokenizer.decode(tokens)));
 * ```
 */
export async function evaluateAccuracy(
  model: LanguageModel,
  sequences: readonly Sequence[],
  options: AccuracyOptions = {},
): Promise<Accuracy> {
  checkSequences(model, sequences);
  const longest = sequences.reduce((most, { ids }) => Math.max(most, ids.length), 0);
  const tokens = sequences.reduce((sum, { ids }) => sum + ids.length, 0);
  const {
    length = Math.max(longest, Math.min(DEFAULT_LENGTH, model.config.contextLength, tokens)),
    rows = Math.max(1, Math.floor(Math.min(budgetOf(model).tokens, tokens + length - 1) / length)),
    onProgress,
  } = options;
  const scores = await score(model, sequences, { length, rows, predict: true, onProgress });
  const isCorrect: boolean[] = [];
  const predicted: Int32Array[] = [];
  for (const [i, { labels }] of sequences.entries()) {
    const own = scores.predicted!.subarray(scores.starts[i], scores.starts[i + 1]);
    const wanted = labels.filter((label) => label !== IGNORED);
    predicted.push(own);
    isCorrect.push(wanted.every((label, at) => label === own[at]));
  }
  const correct = isCorrect.filter(Boolean).length;
  return {
    correct,
    total: sequences.length,
    accuracy: correct / sequences.length,
    nll: scores.losses.reduce((sum, loss) => sum + loss, 0),
    tokens: scores.losses.length,
    isCorrect,
    predicted,
  };
}
