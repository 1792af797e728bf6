/**
 * Perplexity: how surprised a model is by a text.
 *
 * @module
 */
import { checkWindow, defaultWindow, windowsOf } from "../data/windows.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { budgetOf, checkIds, type EvaluationProgress, score } from "./score.ts";

/** How a text is cut for `evaluatePerplexity`. */
export interface PerplexityOptions {
  /** Tokens in a window, at most the model's context; by default 1,024, or the context if that is less. */
  readonly window?: number;
  /** Windows that are evaluated together at most; by default as many as fit. The result is the same but for rounding. */
  readonly batchSize?: number;
  /** Told how far the work is. */
  readonly onProgress?: EvaluationProgress;
}

/** What `evaluatePerplexity` measures. */
export interface Perplexity {
  /** The sum of `−log p(token)` over all predicted tokens, in nats. */
  readonly nll: number;
  /** How many tokens were predicted. */
  readonly tokens: number;
  /** `exp(nll / tokens)`. */
  readonly perplexity: number;
}

/** Throws a RangeError unless so many tokens can be evaluated in windows of that length. */
export function checkWindows({ config }: LanguageModel, tokens: number, window: number): void {
  if (tokens < 2) {
    throw new RangeError(
      `Cannot evaluate the perplexity of ${tokens} tokens: wanted at least 2, one to see and one to predict`,
    );
  }
  checkWindow(config, window, "evaluate");
}

function checkBatchSize(batchSize: number | undefined): void {
  if (batchSize !== undefined && !(Number.isInteger(batchSize) && batchSize > 0)) {
    throw new RangeError(
      `Cannot evaluate ${batchSize} windows at a time: wanted a whole number above 0`,
    );
  }
}

/**
 * How well a model predicts a text. The text is cut into windows that do not overlap; the last may be shorter. Each is evaluated
 * on its own: inside it every token but the first is predicted from those before it. Dropout is off.
 *
 * @param model the model, with its adapters
 * @param ids the text's tokens, as `tokenizer.encode` gives them
 * @param options the window, and how many at a time
 * @throws {RangeError} if there are fewer than 2 tokens, the window does not fit the context, or an id is beyond the vocabulary
 *
 * @example
 * ```ts
 * import { evaluatePerplexity, openDevice, randomModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const ids = Int32Array.from({ length: 100 }, (_, i) => (7 * i) % 320);
 * const { nll, tokens, perplexity } = await evaluatePerplexity(model, ids, { window: 32 });
 * console.log(nll, tokens, perplexity); // 96 tokens; about 320, as a random model knows nothing
 * ```
 */
export async function evaluatePerplexity(
  model: LanguageModel,
  ids: ArrayLike<number>,
  options: PerplexityOptions = {},
): Promise<Perplexity> {
  const { window = defaultWindow(model.config, "read"), batchSize } = options;
  checkWindows(model, ids.length, window);
  checkBatchSize(batchSize);
  checkIds(model, ids, "the text");
  const windows = windowsOf(ids, window);
  const length = Math.min(window, ids.length);
  const budget = budgetOf(model);
  const fitting = Math.min(budget.places / (length - 1), budget.tokens / length);
  const rows = Math.max(1, Math.floor(Math.min(fitting, windows.length, batchSize ?? Infinity)));
  const { losses } = await score(model, windows, {
    length,
    rows,
    predict: false,
    onProgress: options.onProgress,
  });
  const nll = losses.reduce((sum, loss) => sum + loss, 0);
  return { nll, tokens: losses.length, perplexity: Math.exp(nll / losses.length) };
}
