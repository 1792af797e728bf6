/**
 * Chat templates: how a tokenizer's model wants a conversation written, over npm's `@huggingface/jinja`.
 *
 * @module
 */
import { Template } from "@huggingface/jinja";
import type { Tokenizer } from "../files/tokenizer.ts";

/** One message of a conversation. The template sees fields besides these two as well, such as `name` or `tool_calls`. */
export interface ChatMessage {
  /** Who speaks: "system", "user" or "assistant", and in some templates "tool". */
  readonly role: string;
  /** What is said. */
  readonly content: string;
  /** What else a template may know. */
  readonly [field: string]: unknown;
}

/** One conversation of a fine-tuning set: the model learns what the assistant says in it. */
export interface Conversation {
  /** In their order; at least one is the assistant's, and not the first. */
  readonly messages: readonly ChatMessage[];
}

/** Which template renders a conversation, and what it sees besides the messages. */
export interface ChatOptions {
  /** The name of one of the tokenizer's templates, or a template's own text. "default" where there are several. */
  readonly template?: string;
  /** Tools that the model may call, as JSON schemas. With them a template named "tool_use" is taken where there is one. */
  readonly tools?: readonly unknown[];
  /** More variables of the template, such as `enable_thinking` in Qwen3's. */
  readonly variables?: Readonly<Record<string, unknown>>;
}

/** How `renderChat` ends. */
export interface RenderChatOptions extends ChatOptions {
  /** Whether the assistant's answer begins at the end of the text: to ask a model. Default false. */
  readonly addGenerationPrompt?: boolean;
}

/** The special tokens that transformers gives to templates. */
const SPECIALS = ["bos", "eos", "unk", "sep", "pad", "cls", "mask"].map((kind) => `${kind}_token`);

/** A value in an error message. */
function shown(value: unknown): string {
  const text = JSON.stringify(value) ?? String(value);
  return text.length > 60 ? `${text.slice(0, 59)}…` : text;
}

/**
 * Checks that a value is a list of messages, each with texts for role and content.
 *
 * @param where whose messages these are, as errors name it
 * @throws {TypeError} if it is not, naming the message
 * @throws {RangeError} if there is none
 */
export function checkMessages(
  value: unknown,
  where: string,
): asserts value is readonly ChatMessage[] {
  if (!Array.isArray(value)) {
    throw new TypeError(
      `Cannot use ${where}: its messages are ${
        shown(value)
      }, wanted a list such as [{"role": "user", "content": "Hello"}]`,
    );
  }
  if (value.length === 0) {
    throw new RangeError(`Cannot use ${where}: it has no messages, wanted at least one`);
  }
  for (const [i, message] of value.entries()) {
    for (const field of ["role", "content"]) {
      const text: unknown = message?.[field];
      if (typeof text === "string") continue;
      throw new TypeError(
        `Cannot use ${where}: the "${field}" of message ${i + 1} is ${
          shown(text)
        }, wanted a text; write messages as {"role": "user", "content": "Hello"}`,
      );
    }
  }
}

/**
 * The conversation in a row of a data set, or null where the row is something else: sets of conversations may name a prompt too,
 * but sets of examples have an answer.
 *
 * @throws {TypeError} if its messages are not messages
 * @throws {RangeError} if it has none
 */
export function conversationIn(
  row: Readonly<Record<string, unknown>>,
  answerField: string,
  where: string,
): Conversation | null {
  if (!Object.hasOwn(row, "messages") || Object.hasOwn(row, answerField)) return null;
  const { messages } = row;
  checkMessages(messages, where);
  return { messages };
}

/** The tokenizer's own templates by name. A single one is "default". */
function templatesOf({ config }: Tokenizer): Map<string, string> {
  const own = config.chat_template;
  const named: unknown[] = typeof own === "string"
    ? [{ name: "default", template: own }]
    : Array.isArray(own)
    ? own
    : [];
  const templates = new Map<string, string>();
  for (const one of named) {
    const { name, template } = Object(one);
    if (typeof name !== "string" || typeof template !== "string") {
      throw new TypeError(
        `Cannot use the tokenizer's chat template: found ${
          shown(one)
        } in "chat_template", wanted a text, or a list of {"name": …, "template": …}`,
      );
    }
    templates.set(name, template);
  }
  return templates;
}

function chooseTemplate(tokenizer: Tokenizer, { template, tools }: ChatOptions): string {
  const own = templatesOf(tokenizer);
  const name = template ?? (tools && own.has("tool_use") ? "tool_use" : "default");
  const found = own.get(name);
  if (found !== undefined) return found;
  // Jinja without a brace would be the same text whatever the messages are.
  if (template?.includes("{")) return template;
  if (own.size > 0) {
    throw new RangeError(
      `Cannot render the chat: found no template "${name}", wanted one of ${
        [...own.keys()].map((own) => `"${own}"`).join(", ")
      }, or a template's own text`,
    );
  }
  throw new TypeError(
    "Cannot render the chat: the tokenizer has no chat template; wanted an instruct model's tokenizer, or a file " +
      "chat_template.jinja beside tokenizer.json",
  );
}

/** The tokens that templates know by name, as transformers gives them: those that there are. */
function specialTokens(tokenizer: Tokenizer): Record<string, string> {
  const { config, bosId, eosId, padId } = tokenizer;
  const ids: Record<string, number | null> = {
    "bos_token": bosId,
    "eos_token": eosId,
    "pad_token": padId,
  };
  const specials: Record<string, string> = {};
  for (const name of SPECIALS) {
    const named = config[name];
    const text = typeof named === "object"
      ? (named as { content?: unknown } | null)?.content
      : named;
    const id = ids[name] ?? null;
    if (typeof text === "string") specials[name] = text;
    else if (id !== null) specials[name] = tokenizer.tokenOf(id) ?? "";
  }
  return specials;
}

/** A tokenizer's template, parsed: for many conversations. */
export class ChatTemplate {
  readonly #template: Template;
  readonly #variables: Readonly<Record<string, unknown>>;

  /**
   * Finds and parses the template.
   *
   * @throws {TypeError} if the tokenizer has none
   * @throws {RangeError} if it has none of that name
   * @throws {SyntaxError} if it is not valid Jinja
   */
  constructor(tokenizer: Tokenizer, options: ChatOptions = {}) {
    const text = chooseTemplate(tokenizer, options);
    try {
      this.#template = new Template(text);
    } catch (error) {
      throw new SyntaxError(
        `Cannot read the chat template: ${
          (error as Error).message
        }; wanted Jinja as transformers renders it`,
      );
    }
    this.#variables = {
      tools: options.tools ?? null,
      documents: null,
      ...specialTokens(tokenizer),
      ...options.variables,
    };
  }

  /**
   * The text of messages.
   *
   * @throws {Error} if the template fails, or refuses these messages
   */
  render(messages: readonly ChatMessage[], addGenerationPrompt = false): string {
    try {
      return this.#template.render({
        ...this.#variables,
        messages,
        "add_generation_prompt": addGenerationPrompt,
      });
    } catch (error) {
      const roles = messages.map(({ role }) => role).join(", ");
      throw new Error(
        `Cannot render the chat: the template stops with "${
          (error as Error).message
        }" at messages of ${roles}; wanted messages in the order and with the fields that this model's template takes`,
        { cause: error },
      );
    }
  }
}

/**
 * The text of a conversation as the tokenizer's chat template writes it; the same as `apply_chat_template` of transformers.
 * Templates are those of tokenizer_config.json, of chat_template.jinja beside it, or of a GGUF file.
 *
 * The text has its special tokens already: encode it with `encodeChat`, or with `tokenizer.encode`, which adds none.
 *
 * @throws {TypeError} if the tokenizer has no template, or a message is not one
 * @throws {RangeError} if there is no message, or no template of that name
 * @throws {SyntaxError} if the template is not valid Jinja
 * @throws {Error} if the template fails, or refuses the messages
 *
 * @example
 * ```ts
 * import { renderChat, Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] });
 * const template = "{% for m in messages %}{{ m.role + ': ' + m.content + eos_token }}{% endfor %}" +
 *   "{% if add_generation_prompt %}assistant: {% endif %}";
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>", chat_template: template } });
 * const messages = [{ role: "user", content: "Hello" }];
 * console.log(renderChat(tokenizer, messages, { addGenerationPrompt: true })); // user: Hello<end>assistant:
 * ```
 */
export function renderChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: RenderChatOptions = {},
): string {
  checkMessages(messages, "the chat");
  return new ChatTemplate(tokenizer, options).render(messages, options.addGenerationPrompt);
}

/**
 * The tokens that ask a model for the assistant's next message, i32 [tokens]: for `generateTokens`.
 *
 * @throws {TypeError} if the tokenizer has no template, or a message is not one
 * @throws {RangeError} if there is no message, or no template of that name
 * @throws {SyntaxError} if the template is not valid Jinja
 * @throws {Error} if the template fails, or refuses the messages
 *
 * @example
 * ```ts
 * import { encodeChat, Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] });
 * const template = "{% for m in messages %}{{ m.content + eos_token }}{% endfor %}";
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>", chat_template: template } });
 * console.log(encodeChat(tokenizer, [{ role: "user", content: "a=" }])); // Int32Array(3) [ 65, 29, 0 ]
 * ```
 */
export function encodeChat(
  tokenizer: Tokenizer,
  messages: readonly ChatMessage[],
  options: ChatOptions = {},
): Int32Array<ArrayBuffer> {
  return tokenizer.encode(
    renderChat(tokenizer, messages, { ...options, addGenerationPrompt: true }),
  );
}
