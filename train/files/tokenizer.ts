/**
 * Tokenizers as Hugging Face stores them (tokenizer.json with tokenizer_config.json), over npm's `@huggingface/tokenizers`.
 *
 * @module
 */
import { Tokenizer as HubTokenizer } from "@huggingface/tokenizers";
import { readJsonOf, readTextOf } from "./input.ts";
import { brief } from "./json_text.ts";
import { writeWhole } from "./output.ts";

/** A JSON object. */
export type Json = Record<string, unknown>;

/** Where the special tokens are named, besides tokenizer.json itself. */
export interface TokenizerConfigs {
  /** tokenizer_config.json: `bos_token`, `eos_token`, `pad_token` by name. */
  readonly config?: Json;
  /** The model's config.json: `bos_token_id` and so on, for what the first does not mention. */
  readonly modelConfig?: Json;
}

/**
 * Turns text into token ids and back.
 *
 * @example
 * ```ts
 * import { Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const json = trainBpe(["a cat, a bat"], { vocabSize: 262, specialTokens: ["<end>"] });
 * const tokenizer = new Tokenizer(json, { config: { eos_token: "<end>" } });
 * const ids = tokenizer.encode("a cat");
 * console.log(ids.length, tokenizer.decode(ids), tokenizer.eosId); // 3 a cat 0
 * ```
 */
export class Tokenizer {
  /** The content of tokenizer.json. */
  readonly json: Json;
  /** The content of tokenizer_config.json; empty where there is none. */
  readonly config: Json;
  /** The largest id plus one. A model's embedding may be longer. */
  readonly vocabSize: number;
  /** The token that begins a text, or null. Whether texts get it by themselves is `addsBos`. */
  readonly bosId: number | null;
  /** The token that ends a text or an answer, or null. */
  readonly eosId: number | null;
  /** The token for empty places, or null. */
  readonly padId: number | null;
  /** Whether `encodeWithSpecials` puts `bosId` first: so were the texts that the model learnt from. */
  readonly addsBos: boolean;
  readonly #inner: HubTokenizer;
  readonly #known: ReadonlySet<number>;
  readonly #specials: ReadonlySet<unknown>;

  /**
   * Takes the parsed content of tokenizer.json and of the files beside it.
   *
   * @throws {SyntaxError} if the content is not a tokenizer.
   */
  constructor(json: Json, { config = {}, modelConfig = {} }: TokenizerConfigs = {}) {
    this.json = json;
    this.config = config;
    try {
      checkIds(json);
      this.#inner = new HubTokenizer(json, config);
      // Some of what is wrong shows only in use.
      this.#inner.decode(this.#inner.encode("a b").ids);
    } catch (error) {
      throw new SyntaxError(
        `Cannot use this tokenizer: ${
          reasonOf(error)
        }; wanted the content of a Hugging Face tokenizer.json`,
        { cause: error },
      );
    }
    this.#known = new Set(this.#inner.get_vocab().values());
    let largest = -1;
    for (const id of this.#known) if (id > largest) largest = id;
    this.vocabSize = largest + 1;
    const added = Array.isArray(json.added_tokens) ? json.added_tokens : [];
    this.#specials = new Set(added.filter(({ special }) => special).map(({ id }) => id));
    this.bosId = this.#special("bos", modelConfig);
    this.eosId = this.#special("eos", modelConfig);
    this.padId = this.#special("pad", modelConfig);
    this.addsBos = this.bosId !== null && this.encodeWithSpecials("a")[0] === this.bosId;
  }

  #special(kind: "bos" | "eos" | "pad", modelConfig: Json): number | null {
    const named = this.config[`${kind}_token`];
    if (named === null) return null; // said to have none, as Qwen's for "bos", whatever the model says
    const text = typeof named === "object" ? (named as { content?: unknown }).content : named;
    if (typeof text === "string") return this.#inner.token_to_id(text) ?? null;
    const ids = modelConfig[`${kind}_token_id`];
    const id = Array.isArray(ids) ? ids[0] : ids;
    return typeof id === "number" ? id : null;
  }

  /** The ids of a text, i32 [tokens], without special tokens around it. Special tokens spelt in the text count as such. */
  encode(text: string): Int32Array<ArrayBuffer> {
    return Int32Array.from(this.#inner.encode(text, { add_special_tokens: false }).ids);
  }

  /** The ids of a text, i32 [tokens], with the special tokens that the tokenizer's post-processor puts around it. */
  encodeWithSpecials(text: string): Int32Array<ArrayBuffer> {
    return Int32Array.from(this.#inner.encode(text, { add_special_tokens: true }).ids);
  }

  /** The text of token ids, without special tokens. Ids that no token has (a model's spare rows) give nothing. */
  decode(ids: ArrayLike<number>): string {
    const own = Array.from(ids).filter((id) => this.#known.has(id));
    if (own.length === 0) return "";
    return this.#inner.decode(own, {
      skip_special_tokens: true,
      clean_up_tokenization_spaces: false,
    });
  }

  /** Whether a token is one that `decode` leaves out, such as the end token. */
  isSpecial(id: number): boolean {
    return this.#specials.has(id);
  }

  /** The id of a token by its own text, as "<|endoftext|>", or null. */
  idOf(token: string): number | null {
    return this.#inner.token_to_id(token) ?? null;
  }

  /** The token with this id, in the tokenizer's own spelling ("Ġcat" for " cat"), or null. */
  tokenOf(id: number): string | null {
    return this.#inner.id_to_token(id) ?? null;
  }
}

/** More ids than any vocabulary has. The library makes a list as long as the largest. */
const MOST_IDS = 1 << 22;

function checkIds(json: Json): void {
  const { vocab } = Object(json.model);
  const added = Array.isArray(json.added_tokens) ? json.added_tokens : [];
  // Unigram's vocabulary is a list, whose places are the ids.
  const own = Array.isArray(vocab) ? [] : Object.entries(Object(vocab));
  const ids: [token: unknown, id: unknown][] = own.concat(
    added.map((token) => [token?.content, token?.id]),
  );
  const wrong = ids.find(([, id]) =>
    !(Number.isInteger(id) && id as number >= 0 && id as number < MOST_IDS)
  );
  if (!wrong) return;
  throw new SyntaxError(
    `found ${brief(wrong[1])} as the id of ${
      brief(wrong[0])
    }, wanted a whole number below ${MOST_IDS}`,
  );
}

/** Why a tokenizer could not be made: the library checks little, and where it stumbles the engine's words say nothing to a user. */
function reasonOf(error: unknown): string {
  const isEngines = error instanceof TypeError || error instanceof RangeError;
  return isEngines
    ? "a part of it is missing, or is of another type than it should be"
    : (error as Error).message.slice(0, 500);
}

async function readIfThere<T>(
  read: (path: string, what: string) => Promise<T>,
  path: string,
  what: string,
): Promise<T | undefined> {
  try {
    await Deno.stat(path);
  } catch {
    return undefined;
  }
  return await read(path, what);
}

/**
 * Loads the tokenizer of a model folder: tokenizer.json, and where there are tokenizer_config.json, special_tokens_map.json
 * and config.json, the special tokens they name. The chat template of chat_template.jinja becomes `config.chat_template`.
 *
 * @throws {Error} if tokenizer.json is missing.
 * @throws {SyntaxError} if a file is not as it should be.
 *
 * @example
 * ```ts
 * import { loadTokenizer, saveTokenizer, Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const folder = await Deno.makeTempDir();
 * await saveTokenizer(new Tokenizer(trainBpe(["a cat"], { vocabSize: 256 })), folder);
 * console.log((await loadTokenizer(folder)).encode("cat").length); // 3
 * ```
 */
export async function loadTokenizer(folder: string): Promise<Tokenizer> {
  const path = `${folder}/tokenizer.json`;
  const json = await readJsonOf(path, "the tokenizer");
  const beside = <T>(
    name: string,
    what: string,
    read: (path: string, what: string) => Promise<T>,
  ) => readIfThere(read, `${folder}/${name}`, what);
  const map = await beside("special_tokens_map.json", "the special tokens", readJsonOf);
  const own = await beside("tokenizer_config.json", "the tokenizer's configuration", readJsonOf);
  const modelConfig = await beside("config.json", "the model's configuration", readJsonOf);
  const template = await beside("chat_template.jinja", "the chat template", readTextOf);
  const config: Json = { ...map, ...own };
  // The newer place of the template: where both are there, transformers takes this one.
  if (template !== undefined) config.chat_template = template;
  try {
    return new Tokenizer(json, { config, modelConfig });
  } catch (error) {
    throw new SyntaxError(`Cannot read the tokenizer "${path}": ${reasonOf(error)}`, {
      cause: error,
    });
  }
}

/**
 * Writes tokenizer.json and tokenizer_config.json, with the chat template in it, into a folder.
 *
 * @throws {Error} if they cannot be written.
 *
 * @example
 * ```ts
 * import { saveTokenizer, Tokenizer, trainBpe } from "@nibble/nibble";
 *
 * const folder = await Deno.makeTempDir();
 * await saveTokenizer(new Tokenizer(trainBpe(["a cat"], { vocabSize: 256 })), folder);
 * ```
 */
export async function saveTokenizer(tokenizer: Tokenizer, folder: string): Promise<void> {
  await writeWhole(`${folder}/tokenizer.json`, `${JSON.stringify(tokenizer.json, null, 1)}\n`);
  const config = `${JSON.stringify(tokenizer.config, null, 2)}\n`;
  await writeWhole(`${folder}/tokenizer_config.json`, config);
}
