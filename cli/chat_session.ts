/** A conversation with a model: what was said, and as much of it as the context holds. */
import type { ChatMessage } from "../train/data/chat_template.ts";
import { encodeChat } from "../train/data/chat_template.ts";
import { turnEnd } from "../train/data/chat.ts";
import {
  answerText,
  endTokensOf,
  type GenerateOptions,
  generateTokens,
} from "../train/eval/generate.ts";
import type { Tokenizer } from "../train/files/tokenizer.ts";
import type { LanguageModel } from "../train/models/language_model.ts";

/** How the assistant answers. */
export interface ChatSettings
  extends Pick<GenerateOptions, "temperature" | "topK" | "topP" | "seed"> {
  readonly maxNewTokens: number;
  /** What the system says first; without it, what the template says by itself. */
  readonly system?: string;
}

/** An answer. */
export interface ChatAnswer {
  readonly text: string;
  /** How many tokens were made. */
  readonly tokens: number;
}

/** The tokens that end an answer in a chat: a base model's tokenizer may name another one than its template ends turns with. */
export function chatEnds(model: LanguageModel, tokenizer: Tokenizer): number[] {
  const end = turnEnd(tokenizer);
  return [...new Set([...endTokensOf(model), ...end === null ? [] : [end]])];
}

/** A conversation that goes on question by question. */
export class ChatSession {
  readonly #model: LanguageModel;
  readonly #tokenizer: Tokenizer;
  readonly #settings: ChatSettings;
  readonly #endTokens: number[];
  #history: ChatMessage[] = [];
  #asked = 0;

  /** Throws if the tokenizer has no chat template, or one that fails. */
  constructor(model: LanguageModel, tokenizer: Tokenizer, settings: ChatSettings) {
    this.#model = model;
    this.#tokenizer = tokenizer;
    this.#settings = settings;
    this.#endTokens = chatEnds(model, tokenizer);
  }

  /** What was said and is still known, the system's message first if the caller gave one. */
  get messages(): readonly ChatMessage[] {
    return [...this.#system(), ...this.#history];
  }

  /** Forgets what was said. */
  reset(): void {
    this.#history = [];
  }

  #system(): ChatMessage[] {
    const { system } = this.#settings;
    return system === undefined ? [] : [{ role: "system", content: system }];
  }

  /**
   * Makes room for the next answer.
   *
   * @returns the tokens to ask with, and how many of the oldest questions had to be forgotten
   * @throws {RangeError} if the question alone is too long
   */
  #fit(question: ChatMessage): { ids: Int32Array<ArrayBuffer>; forgotten: number } {
    const { contextLength } = this.#model.config;
    // A quarter of a small context is for the answer, even if the user allows more.
    const room = Math.min(this.#settings.maxNewTokens, Math.ceil(contextLength / 4));
    const tokens = (from: number) =>
      encodeChat(this.#tokenizer, [...this.#system(), ...this.#history.slice(from), question]);
    let from = 0;
    let ids = tokens(from);
    while (ids.length + room > contextLength && from < this.#history.length) {
      ids = tokens(from += 2);
    }
    if (ids.length >= contextLength) {
      throw new RangeError(
        `Cannot answer: the message has ${ids.length} tokens with the template's own, but the model's context holds ${contextLength}; shorten it`,
      );
    }
    this.#history.splice(0, from);
    return { ids, forgotten: from / 2 };
  }

  /**
   * Asks, and keeps question and answer.
   *
   * @param onText gets the answer in pieces, as it grows
   * @param onForget is told how many of the oldest questions the context has no room for any more
   * @throws {RangeError} if the question is too long for the context; nothing is kept of it then
   */
  async ask(
    content: string,
    { onText, onForget }: {
      onText?: (piece: string) => void;
      onForget?: (questions: number) => void;
    } = {},
  ): Promise<ChatAnswer> {
    const question: ChatMessage = { role: "user", content };
    const { ids, forgotten } = this.#fit(question);
    if (forgotten > 0) onForget?.(forgotten);
    const { system: _, seed = 0, ...settings } = this.#settings;
    let told = 0;
    const tell = (text: string) => {
      if (text.length <= told) return;
      onText?.(text.slice(told));
      told = text.length;
    };
    const textOf = (tokens: Int32Array) => answerText(this.#tokenizer, ids, tokens);
    const [tokens] = await generateTokens(this.#model, [ids], {
      ...settings,
      // The same question twice may have two answers.
      seed: seed + this.#asked++,
      endTokens: this.#endTokens,
      // The last character may lack bytes yet.
      onTokens: onText && ((_, grown) => tell(textOf(grown).replace(/\ufffd+$/, ""))),
    });
    const text = textOf(tokens);
    tell(text);
    this.#history.push(question, { role: "assistant", content: text });
    return { text, tokens: tokens.length };
  }
}
