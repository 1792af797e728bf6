/**
 * Text generation: prompts in, answers out.
 *
 * @module
 */
import { checkSampleOptions, type SampleOptions } from "../../kernels/sample/sample.ts";
import type { Tokenizer } from "../files/tokenizer.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { generateBatch, type PromptRow } from "./generate_batch.ts";

/** How text is generated; `temperature`, `topK` and `topP` choose among the tokens. */
export interface GenerateOptions extends SampleOptions {
  /** The most tokens of an answer: 64 by default. Fewer where the end token comes, or where the model's context is full. */
  readonly maxNewTokens?: number;
  /** Where random numbers begin, a whole number: 0 by default. The same seed gives the same text. */
  readonly seed?: number;
  /** How many prompts the model sees at a time: 32 by default. Fewer take less memory. */
  readonly batchSize?: number;
  /** The tokens that end an answer: by default those that the tokenizer and the model's config.json name. */
  readonly endTokens?: readonly number[];
  /** Called after each batch with the number of prompts that were answered so far. */
  readonly onProgress?: (answered: number) => void;
  /**
   * Called while answers grow, after each block of 16 or 32 tokens but the last, with a prompt's place in the list and the tokens
   * of its answer so far: to show them. Each block then takes one more read.
   */
  readonly onTokens?: (prompt: number, tokens: Int32Array<ArrayBuffer>) => void;
}

/** Prompts of several batches are padded to multiples of this, so that a few sizes of buffer serve all batches. */
const LENGTH_GRAIN = 32;

/** Tokenizes a prompt as examples are for training: with the begin token first where the tokenizer adds it itself. */
export function promptTokens(tokenizer: Tokenizer, prompt: string): Int32Array<ArrayBuffer> {
  const tokens = tokenizer.encode(prompt);
  if (!tokenizer.addsBos) return tokens;
  const ids = new Int32Array(tokens.length + 1);
  ids[0] = tokenizer.bosId!;
  ids.set(tokens, 1);
  return ids;
}

/**
 * The text of an answer's tokens. They are decoded behind those of the prompt: some tokenizers drop a space at the beginning of a
 * text, and a letter of several bytes may begin in the prompt.
 */
export function answerText(
  tokenizer: Tokenizer,
  prompt: ArrayLike<number>,
  answer: ArrayLike<number>,
): string {
  const before = tokenizer.decode(prompt);
  const whole = tokenizer.decode([...Array.from(prompt), ...Array.from(answer)]);
  return whole.startsWith(before) ? whole.slice(before.length) : tokenizer.decode(answer);
}

function tokenizerOf(model: LanguageModel): Tokenizer {
  if (model.tokenizer) return model.tokenizer;
  throw new TypeError(
    "Cannot generate text: the model has no tokenizer. Set model.tokenizer to what loadTokenizer gives, " +
      "or pass tokens to generateTokens",
  );
}

/** The tokens that end an answer unless the caller says otherwise: those that the tokenizer and the model's config.json name. */
export function endTokensOf(model: LanguageModel): number[] {
  const named = model.configJson.eos_token_id;
  const ids: unknown[] = [model.tokenizer?.eosId, ...(Array.isArray(named) ? named : [named])];
  return [...new Set(ids.filter((id) => typeof id === "number"))];
}

function checkCount(name: string, value: number): void {
  if (Number.isSafeInteger(value) && value > 0) return;
  throw new RangeError(
    `Cannot generate text: ${name} is ${value}, wanted a whole number of at least 1`,
  );
}

/** A seed as the 32 bits that the GPU takes. */
function seedBits(seed: number): number {
  if (Number.isSafeInteger(seed)) return (seed ^ Math.floor(seed / 2 ** 32)) >>> 0;
  throw new RangeError(`Cannot generate text: seed is ${seed}, wanted a whole number`);
}

function checkPrompt(model: LanguageModel, prompt: ArrayLike<number>, name: string): void {
  const { contextLength, vocabSize } = model.config;
  if (prompt.length === 0) {
    throw new RangeError(
      `Cannot generate text: ${name} has 0 tokens, wanted 1 to the ${contextLength} of the model's context; ` +
        "begin it with some text",
    );
  }
  if (prompt.length > contextLength) {
    throw new RangeError(
      `Cannot generate text: ${name} has ${prompt.length} tokens, but the model's context holds ${contextLength}; ` +
        "shorten it",
    );
  }
  for (let i = 0; i < prompt.length; i++) {
    if (Number.isInteger(prompt[i]) && prompt[i] >= 0 && prompt[i] < vocabSize) continue;
    throw new RangeError(
      `Cannot generate text: ${name} has the token ${prompt[i]}, wanted 0 to ${vocabSize - 1}; ` +
        "use the model's own tokenizer",
    );
  }
}

/**
 * Goes on from prompts of tokens; works without a tokenizer.
 *
 * Prompts of different lengths are padded on the left and seen together. No token is waited for: the host reads after 16 tokens,
 * and then after every 32. With a temperature, an answer depends on the seed and on the prompt's place in the list, not on
 * `batchSize` or on what else is in the list, but for rounding.
 *
 * @param model the model
 * @param prompts the tokens of each prompt, with the begin token where the model expects one
 * @param options how many tokens, how they are chosen, how many prompts at a time
 * @returns for each prompt the new tokens, without the end token; none where the prompt fills the context
 * @throws {RangeError} if a prompt is empty, longer than the context, or has tokens that the model does not, or if an option makes
 * no sense
 *
 * @example
 * ```ts
 * import { generateTokens, openDevice, randomModel } from "@nibble/nibble";
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
 * const [answer] = await generateTokens(model, [[5, 6, 7]], { maxNewTokens: 8 });
 * console.log(answer.length); // 8
 * ```
 */
export async function generateTokens(
  model: LanguageModel,
  prompts: readonly ArrayLike<number>[],
  options: GenerateOptions = {},
): Promise<Int32Array<ArrayBuffer>[]> {
  const { maxNewTokens = 64, batchSize = 32, endTokens = endTokensOf(model), onTokens } = options;
  checkCount("maxNewTokens", maxNewTokens);
  checkCount("batchSize", batchSize);
  checkSampleOptions(options);
  const seed = seedBits(options.seed ?? 0);
  const { contextLength } = model.config;
  prompts.forEach((ids, i) =>
    checkPrompt(model, ids, prompts.length === 1 ? "the prompt" : `prompt ${i + 1}`)
  );
  const answers = prompts.map(() => new Int32Array());
  const rows = prompts.map((ids, stream): PromptRow => {
    return { ids, stream, limit: Math.min(maxNewTokens, contextLength - ids.length) };
  }).filter(({ limit }) => limit > 0);
  // Like lengths share a batch, so that few pads are seen; the longest come first, so that lack of memory shows at once.
  rows.sort((a, b) => b.ids.length - a.ids.length);
  const grain = rows.length > batchSize ? LENGTH_GRAIN : 1;
  for (let from = 0; from < rows.length; from += batchSize) {
    const batch = rows.slice(from, from + batchSize);
    const length = Math.min(Math.ceil(batch[0].ids.length / grain) * grain, contextLength);
    const onBlock = onTokens &&
      ((grown: readonly Int32Array<ArrayBuffer>[]) =>
        batch.forEach(({ stream }, index) => onTokens(stream, grown[index])));
    const settings = { ...options, seed, ends: endTokens, length, onBlock };
    const given = await generateBatch(model, batch, settings);
    batch.forEach(({ stream }, index) => answers[stream] = given[index]);
    options.onProgress?.(prompts.length - rows.length + from + batch.length);
  }
  return answers;
}

/**
 * Goes on from a text.
 *
 * The begin token comes first where the tokenizer adds it itself. The answer ends before the model's end token, after
 * `maxNewTokens` tokens, or where prompt and answer fill the model's context, whichever comes first.
 *
 * @param model the model, with its tokenizer
 * @param prompt the text, or several, which are seen together and much faster so than one by one
 * @param options how many tokens, how they are chosen, how many prompts at a time
 * @returns the answer, without the prompt; of several prompts, an array
 * @throws {RangeError} if a prompt is empty or longer than the context, or an option makes no sense
 * @throws {TypeError} if the model has no tokenizer
 *
 * @example
 * ```ts
 * import { generate, openDevice, randomModel, Tokenizer, trainBpe } from "@nibble/nibble";
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
 * model.tokenizer = new Tokenizer(trainBpe(["a cat, a bat"], { vocabSize: 260 }));
 * console.log(await generate(model, "a cat", { maxNewTokens: 8 }));
 * console.log(await generate(model, ["a", "a cat"], { temperature: 0.8, topP: 0.9, seed: 7 }));
 * ```
 */
export async function generate(
  model: LanguageModel,
  prompt: string,
  options?: GenerateOptions,
): Promise<string>;
/** Goes on from several texts at once, and gives the answers in their order. */
export async function generate(
  model: LanguageModel,
  prompt: readonly string[],
  options?: GenerateOptions,
): Promise<string[]>;
export async function generate(
  model: LanguageModel,
  prompt: string | readonly string[],
  options?: GenerateOptions,
): Promise<string | string[]> {
  const tokenizer = tokenizerOf(model);
  const prompts = typeof prompt === "string" ? [prompt] : prompt;
  const ids = prompts.map((text) => promptTokens(tokenizer, text));
  const answers = await generateTokens(model, ids, options);
  const texts = answers.map((own, i) => answerText(tokenizer, ids[i], own));
  return typeof prompt === "string" ? texts[0] : texts;
}
