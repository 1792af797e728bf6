/**
 * Conversations as token sequences whose loss is on what the assistant says.
 *
 * @module
 */
import type { Tokenizer } from "../files/tokenizer.ts";
import {
  type ChatMessage,
  type ChatOptions,
  ChatTemplate,
  checkMessages,
  type Conversation,
} from "./chat_template.ts";
import { IGNORED, type Sequence, type TokenizeOptions } from "./dataset.ts";

/** How conversations become tokens. */
export interface TokenizeChatOptions extends TokenizeOptions, ChatOptions {}

/** The role whose messages are learnt. */
const ASSISTANT = "assistant";

/** A piece of a rendered conversation. */
interface Part {
  readonly text: string;
  /** Whether it is what the assistant says, with the token that ends its turn. */
  readonly learned: boolean;
}

function quoted(text: string): string {
  return JSON.stringify(text.length > 32 ? `${text.slice(0, 31)}…` : text);
}

/** What a text goes on with after its beginning. Templates that rewrite what they wrote before are refused. */
function after(start: string, whole: string, where: string, messages: number): string {
  if (whole.startsWith(start)) return whole.slice(start.length);
  let at = 0;
  while (start[at] === whole[at]) at++;
  throw new Error(
    `Cannot find the assistant's words in ${where}: with ${messages} messages the template writes ${
      quoted(whole.slice(at))
    } where it wrote ${
      quoted(start.slice(at))
    } before, wanted a template that only adds text; cut the conversation so that the assistant speaks once, at its end, or use another template`,
  );
}

/** A conversation in pieces, up to the last that the assistant says. */
function partsOf(template: ChatTemplate, messages: readonly ChatMessage[], where: string): Part[] {
  const parts: Part[] = [];
  let done = "";
  for (const [i, { role }] of messages.entries()) {
    if (role !== ASSISTANT) continue;
    if (i === 0) {
      throw new RangeError(
        `Cannot use ${where}: its first message is the assistant's, wanted one of the system or the user before it`,
      );
    }
    const asked = template.render(messages.slice(0, i), true);
    const told = template.render(messages.slice(0, i + 1));
    parts.push({ text: after(done, asked, where, i), learned: false });
    parts.push({ text: after(asked, told, where, i + 1), learned: true });
    done = told;
  }
  if (parts.length > 0) return parts;
  throw new RangeError(
    `Cannot use ${where}: found no message of the role "${ASSISTANT}", wanted one to learn from`,
  );
}

/** The tokens of a text that grows, and which of them are learnt. */
class Tokens {
  readonly #tokenizer: Tokenizer;
  readonly ids: number[] = [];
  readonly learned: boolean[] = [];
  /** The text from its last special token on, and where that token is: what stands before has no say in how text is cut. */
  #text = "";
  #from = 0;

  constructor(tokenizer: Tokenizer) {
    this.#tokenizer = tokenizer;
  }

  /** Adds a piece with the tokens that it has behind what came before it, as when the model is asked and goes on. */
  add({ text, learned }: Part): void {
    const { ids } = this;
    const begin = ids.length;
    const known = ids.slice(this.#from);
    let own = this.#tokenizer.encode(this.#text + text);
    if (known.every((id, i) => id === own[i])) {
      this.#text += text;
      own = own.subarray(known.length);
    } else {
      // A token would reach over the boundary: the model is asked with what stands before alone, so it is encoded alone.
      own = this.#tokenizer.encode(text);
      this.#text = text;
      this.#from = begin;
    }
    for (const id of own) ids.push(id);
    const end = learned ? this.#endOfTurn(begin) : begin;
    for (let i = begin; i < ids.length; i++) this.learned.push(i < end);
    this.#shorten(begin);
  }

  #lastSpecial(from: number): number {
    return this.ids.findLastIndex((id, i) => i >= from && this.#tokenizer.isSpecial(id));
  }

  /** Behind the special token that ends a turn, templates put a line break, which nobody has to say. */
  #endOfTurn(begin: number): number {
    const { ids } = this;
    const last = this.#lastSpecial(begin);
    const blank = last >= 0 && this.#tokenizer.decode(ids.slice(last + 1)).trim() === "";
    return blank ? last + 1 : ids.length;
  }

  #shorten(begin: number): void {
    const last = this.#lastSpecial(begin);
    if (last < 0) return;
    const at = this.#text.lastIndexOf(this.#tokenizer.tokenOf(this.ids[last])!);
    if (at < 0) return;
    this.#text = this.#text.slice(at);
    this.#from = last;
  }
}

function tokensOf(tokenizer: Tokenizer, parts: readonly Part[]): Tokens {
  const tokens = new Tokens(tokenizer);
  for (const part of parts) tokens.add(part);
  return tokens;
}

/**
 * Tokens of conversations as the tokenizer's chat template writes them, with the loss only on the assistant's messages and on
 * the token that ends each. What stands behind the last of them is left out. The template must only add text from one message to
 * the next; one that rewrites earlier messages is refused.
 *
 * @returns For each conversation ids, and labels that are −100 where the next token is not the assistant's.
 * @throws {RangeError} if there is no conversation, one is longer than `maxLength`, or has nothing to learn.
 * @throws {TypeError} if the tokenizer has no chat template, or a message is not one.
 * @throws {Error} if the template fails, or rewrites earlier messages.
 *
 * @example
 * ```ts
 * import { Tokenizer, tokenizeChat, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] });
 * const template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>", chat_template: template } });
 * const messages = [{ role: "user", content: "a=" }, { role: "assistant", content: "1" }];
 * const [{ ids, labels }] = tokenizeChat(tokenizer, [{ messages }]);
 * console.log(ids, labels); // [ 65, 29, 0, 17 ] [ -100, -100, 17, 0 ], as Int32Arrays
 * ```
 */
export function tokenizeChat(
  tokenizer: Tokenizer,
  conversations: readonly Conversation[],
  { maxLength = Infinity, ...options }: TokenizeChatOptions = {},
): Sequence[] {
  if (conversations.length === 0) {
    throw new RangeError(
      "Cannot tokenize the data set: it is empty; wanted at least one conversation",
    );
  }
  const template = new ChatTemplate(tokenizer, options);
  return conversations.map(({ messages }, i) => {
    const number = `conversation ${i + 1}`;
    checkMessages(messages, number);
    const where = `${number}, ${quoted(messages[0].content)}`;
    const { ids, learned } = tokensOf(tokenizer, partsOf(template, messages, where));
    // The last token is a label, and not an input.
    const length = learned.lastIndexOf(true);
    if (length < 1) {
      throw new RangeError(
        `Cannot use ${where}: the template leaves out what the assistant says, so there is nothing to learn; use another template`,
      );
    }
    if (length > maxLength) {
      throw new RangeError(
        `Cannot use ${where}: it has ${length} tokens, but the context holds ${maxLength}; shorten it or raise the length`,
      );
    }
    const labels = Int32Array.from(
      { length },
      (_, place) => learned[place + 1] ? ids[place + 1] : IGNORED,
    );
    return { ids: Int32Array.from(ids.slice(0, length)), labels };
  });
}

/**
 * The special token that ends the assistant's turn in the tokenizer's chat template, or null where it has none. Models answer
 * until there; it need not be the tokenizer's end token.
 *
 * @throws {TypeError} if the tokenizer has no chat template
 *
 * @example
 * ```ts
 * import { Tokenizer, trainBpe, turnEnd } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 258, specialTokens: ["<end>", "<over>"] });
 * const template = "{% for m in messages %}{{ m.content + '<over>' }}{% endfor %}";
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>", chat_template: template } });
 * console.log(turnEnd(tokenizer)); // 1
 * ```
 */
export function turnEnd(tokenizer: Tokenizer, options: ChatOptions = {}): number | null {
  const messages = [{ role: "user", content: "a" }, { role: ASSISTANT, content: "b" }];
  const parts = partsOf(new ChatTemplate(tokenizer, options), messages, "a chat");
  const { ids, learned } = tokensOf(tokenizer, parts);
  const last = ids[learned.lastIndexOf(true)];
  return last !== undefined && tokenizer.isSpecial(last) ? last : null;
}
