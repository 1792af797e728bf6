/**
 * Reading data sets, and turning them into token sequences with labels where the loss looks.
 *
 * @module
 */
import { readTextOf } from "../files/input.ts";
import type { Tokenizer } from "../files/tokenizer.ts";
import { type Conversation, conversationIn } from "./chat_template.ts";

/** One row of a fine-tuning set: the model is given `prompt` and learns `answer`. */
export interface Example {
  /** What the model is given. */
  readonly prompt: string;
  /** What it learns to go on with; where the prompt ends in a word, it begins with a space. */
  readonly answer: string;
}

/** The tokens of one text and what should follow each, both i32 [tokens]. */
export interface Sequence {
  /** The tokens that the model sees. */
  readonly ids: Int32Array<ArrayBuffer>;
  /** At each place the token that should follow (shifted already), or −100 where the loss does not look. */
  readonly labels: Int32Array<ArrayBuffer>;
}

/** The label that the loss passes over, as torch has it. */
export const IGNORED: number = -100;

/** Under which names the rows of a JSONL file hold prompt and answer. */
export interface ExampleFields {
  /** Default "prompt". */
  readonly promptField?: string;
  /** Default "answer". */
  readonly answerField?: string;
  /** Told at the end which fields of the first row are not read, if there are any: an input beside an instruction, say. */
  readonly onUnread?: (fields: readonly string[]) => void;
}

/** The fields of a JSONL file that may hold conversations instead. */
export interface ChatFields extends ExampleFields {
  /** Rows with `messages: [{ role, content }]` are conversations. */
  readonly chat: true;
}

/**
 * Reads a JSONL file: one JSON object a line, with a text for the prompt and one for the answer. Empty lines are passed over.
 * With `chat: true` the rows may be conversations instead: `{"messages": [{"role": "user", "content": "2 + 2?"}, …]}`.
 *
 * @throws {Error} if the file is missing or cannot be read.
 * @throws {SyntaxError} if a line is not a JSON object, naming the line.
 * @throws {TypeError} if a row lacks a field or holds something else in it, or only some rows are conversations.
 * @throws {RangeError} if there is no row, or an answer is empty.
 *
 * @example
 * ```ts
 * import { readJsonl } from "@nibble/nibble";
 *
 * const path = `${await Deno.makeTempDir()}/set.jsonl`;
 * await Deno.writeTextFile(path, '{"question": "2 + 2 =", "answer": " 4"}\n');
 * console.log(await readJsonl(path, { promptField: "question" })); // [ { prompt: "2 + 2 =", answer: " 4" } ]
 * ```
 */
export async function readJsonl(
  path: string,
  options: ChatFields,
): Promise<Example[] | Conversation[]>;
/** Reads a JSONL file of prompts and answers. */
export async function readJsonl(path: string, options?: ExampleFields): Promise<Example[]>;
export async function readJsonl(
  path: string,
  { promptField = "prompt", answerField = "answer", onUnread, chat }:
    & ExampleFields
    & Partial<ChatFields> = {},
): Promise<Example[] | Conversation[]> {
  let unread: string[] | null = null;
  const examples: Example[] = [];
  const conversations: Conversation[] = [];
  const lines = withoutMark(await readTextOf(path, "the data set")).split("\n");
  for (const [i, line] of lines.entries()) {
    if (line.trim() === "") continue;
    const where = `line ${i + 1} of "${path}"`;
    const row = parseRow(line, where);
    const conversation = conversationIn(row, answerField, where);
    unread ??= without(row, conversation ? ["messages"] : [promptField, answerField]);
    if (conversation) {
      if (!chat) {
        throw new TypeError(
          `Cannot use ${where}: it is a conversation, wanted "${promptField}" and "${answerField}"; read the file with chat: true where conversations will do`,
        );
      }
      conversations.push(conversation);
      if (examples.length > 0) throw mixed(where, "a conversation", "prompts and answers");
      continue;
    }
    if (conversations.length > 0) throw mixed(where, "no conversation", "conversations");
    const prompt = textIn(row, promptField, where);
    const answer = textIn(row, answerField, where);
    if (answer === "") {
      throw new RangeError(
        `Cannot use ${where}: its "${answerField}" is empty, so there is nothing to learn`,
      );
    }
    examples.push({ prompt, answer });
  }
  if (conversations.length + examples.length === 0) {
    throw new RangeError(
      `Cannot use the data set "${path}": it is empty; wanted a JSON object a line, such as {"${promptField}": "2 + 2 =", "${answerField}": " 4"}`,
    );
  }
  if (unread && unread.length > 0) onUnread?.(unread);
  return conversations.length > 0 ? conversations : examples;
}

/** The fields of a row beside those that are read. */
function without(row: Record<string, unknown>, read: readonly string[]): string[] {
  return Object.keys(row).filter((field) => !read.includes(field));
}

function mixed(where: string, found: string, before: string): TypeError {
  return new TypeError(
    `Cannot use ${where}: it is ${found}, but the lines before it are ${before}; wanted one kind in a file, so split it`,
  );
}

/** Without the byte order mark that some editors write. */
function withoutMark(text: string): string {
  return text.startsWith("\ufeff") ? text.slice(1) : text;
}

/** What a file of rows must look like. */
const WANTED_LINES =
  "wanted one JSON object a line, without a list around them and commas between them";

function parseRow(line: string, where: string): Record<string, unknown> {
  let row: unknown;
  try {
    row = JSON.parse(line);
  } catch (error) {
    // A JSON array over many lines is valid as a whole, but not its first line alone.
    const fault = line.trim() === "[" ? "it begins a list" : (error as Error).message;
    throw new SyntaxError(`Cannot read ${where}: it is not valid JSON (${fault}); ${WANTED_LINES}`);
  }
  if (typeof row !== "object" || row === null || Array.isArray(row)) {
    const start = line.length > 40 ? `${line.slice(0, 40)}…` : line;
    throw new SyntaxError(`Cannot read ${where}: it is ${start}; ${WANTED_LINES}`);
  }
  return row as Record<string, unknown>;
}

function textIn(row: Record<string, unknown>, field: string, where: string): string {
  const value = Object.hasOwn(row, field) ? row[field] : undefined;
  if (typeof value === "string") return value;
  const fields = Object.keys(row).map((name) => `"${name}"`).join(", ") || "none";
  throw new TypeError(
    value === undefined
      ? `Cannot use ${where}: it has the fields ${fields}, wanted "${field}"; name the field to use, or add it`
      : `Cannot use ${where}: its "${field}" is ${JSON.stringify(value)}, wanted a text`,
  );
}

/**
 * Reads a text file. Its lines, without empty ones, are `text.split("\n").filter(Boolean)`.
 *
 * @throws {Error} if the file is missing or cannot be read.
 * @throws {RangeError} if it holds nothing but white space.
 *
 * @example
 * ```ts
 * import { readText } from "@nibble/nibble";
 *
 * const path = `${await Deno.makeTempDir()}/text.txt`;
 * await Deno.writeTextFile(path, "one\ntwo\n");
 * console.log((await readText(path)).lines); // [ "one", "two" ]
 * ```
 */
export async function readText(path: string): Promise<{ text: string; lines: string[] }> {
  const text = withoutMark(await readTextOf(path, "the text"));
  const lines = text.split(/\r?\n/).filter((line) => line.trim() !== "");
  if (lines.length === 0) {
    throw new RangeError(`Cannot use the text "${path}": it is empty`);
  }
  return { text, lines };
}

/** How examples become tokens. */
export interface TokenizeOptions {
  /** The most tokens that a sequence may have: the model's context, or the length of a row. */
  readonly maxLength?: number;
}

/**
 * Tokens of examples, with the loss only on the answer and the end token after it. Prompt and answer are encoded apart, so that
 * the prompt has the same tokens as when the model is asked. The begin token comes first where the tokenizer adds it itself.
 * The end token is the last label and not an input, as nothing follows it.
 *
 * @returns For each example ids [begin?, prompt, answer], and labels that are −100 up to the last token of the prompt.
 * @throws {RangeError} if there is no example, one is longer than `maxLength`, or one has no token before its answer.
 *
 * @example
 * ```ts
 * import { Tokenizer, tokenizeExamples, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] });
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>" } });
 * const [{ ids, labels }] = tokenizeExamples(tokenizer, [{ prompt: "a=", answer: "1" }]);
 * console.log(ids, labels); // Int32Array(3) [ 65, 29, 17 ] Int32Array(3) [ -100, 17, 0 ]
 * ```
 */
export function tokenizeExamples(
  tokenizer: Tokenizer,
  examples: readonly Example[],
  { maxLength = Infinity }: TokenizeOptions = {},
): Sequence[] {
  if (examples.length === 0) {
    throw new RangeError("Cannot tokenize the data set: it is empty; wanted at least one example");
  }
  const begin = beginOf(tokenizer);
  const end = endOf(tokenizer);
  return examples.map(({ prompt, answer }, i) => {
    const head = [...begin, ...tokenizer.encode(prompt)];
    const tail = tokenizer.encode(answer);
    const length = head.length + tail.length;
    if (length > maxLength) {
      throw new RangeError(
        `Cannot use example ${i + 1}, ${
          startOf(prompt)
        }: its prompt has ${head.length} tokens and its answer ${tail.length}, but the context holds ${maxLength}; shorten it or raise the length`,
      );
    }
    if (head.length === 0) {
      throw new RangeError(
        `Cannot use example ${
          i + 1
        }: its prompt is empty and the tokenizer has no begin token, so there is nothing to answer from`,
      );
    }
    const ids = Int32Array.of(...head, ...tail);
    const labels = new Int32Array(length).fill(IGNORED);
    labels.set([...tail, ...end].slice(0, length - head.length + 1), head.length - 1);
    return { ids, labels };
  });
}

/** The beginning of a prompt in quotes: where examples were chosen, their numbers are not those of the lines of a file. */
function startOf(prompt: string): string {
  return JSON.stringify(prompt.length > 32 ? `${prompt.slice(0, 31)}…` : prompt);
}

function beginOf(tokenizer: Tokenizer): number[] {
  return tokenizer.addsBos ? [tokenizer.bosId!] : [];
}

function endOf(tokenizer: Tokenizer): number[] {
  return tokenizer.eosId === null ? [] : [tokenizer.eosId];
}

/**
 * Tokens of plain texts, each with the begin token first where the tokenizer adds it itself. Every token is a label, the end
 * token after the last one included. Texts without a token to learn are left out.
 *
 * @param text One text, or several.
 * @throws {RangeError} if nothing is left to learn, or a text is longer than `maxLength`.
 *
 * @example
 * ```ts
 * import { Tokenizer, tokenizeText, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"], bosToken: "<end>" });
 * const tokenizer = new Tokenizer(json, { config: { bos_token: "<end>", eos_token: "<end>" } });
 * const [{ ids, labels }] = tokenizeText(tokenizer, ["a="]);
 * console.log(ids, labels); // Int32Array(3) [ 0, 65, 29 ] Int32Array(3) [ 65, 29, 0 ]
 * ```
 */
export function tokenizeText(
  tokenizer: Tokenizer,
  text: string | readonly string[],
  { maxLength = Infinity }: TokenizeOptions = {},
): Sequence[] {
  const sequences: Sequence[] = [];
  const begin = beginOf(tokenizer);
  const end = endOf(tokenizer);
  const texts = typeof text === "string" ? [text] : text;
  for (const [i, one] of texts.entries()) {
    const tokens = tokenizer.encode(one);
    const ids = new Int32Array(begin.length + tokens.length);
    ids.set(begin);
    ids.set(tokens, begin.length);
    if (ids.length > maxLength) {
      throw new RangeError(
        `Cannot use text ${
          i + 1
        }: it has ${ids.length} tokens, but the context holds ${maxLength}; split it or raise the length`,
      );
    }
    const labels = new Int32Array(ids.length).fill(IGNORED);
    labels.set(ids.subarray(1));
    if (ids.length > 0) labels.set(end, ids.length - 1);
    if (tokens.length > 0 && labels.some((label) => label !== IGNORED)) {
      sequences.push({ ids, labels });
    }
  }
  if (sequences.length === 0) {
    throw new RangeError("Cannot tokenize the text: it is empty; wanted at least one line");
  }
  return sequences;
}

/**
 * One stream of tokens from many texts, i32 [tokens], each text between begin and end tokens; where these are one token, it
 * stands once between two texts. `chunk` cuts it into rows.
 *
 * @example
 * ```ts
 * import { Tokenizer, tokenStream, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"], bosToken: "<end>" });
 * const tokenizer = new Tokenizer(json, { config: { bos_token: "<end>", eos_token: "<end>" } });
 * console.log(tokenStream(tokenizer, ["a", "="])); // Int32Array(5) [ 0, 65, 0, 29, 0 ]
 * ```
 */
export function tokenStream(
  tokenizer: Tokenizer,
  texts: Iterable<string>,
): Int32Array<ArrayBuffer> {
  const begin = beginOf(tokenizer);
  const end = endOf(tokenizer);
  const stream: number[] = [];
  for (const text of texts) {
    if (stream.length === 0 || begin[0] !== end[0]) stream.push(...begin);
    for (const id of tokenizer.encode(text)) stream.push(id);
    stream.push(...end);
  }
  return Int32Array.from(stream);
}
