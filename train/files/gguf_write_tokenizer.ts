// deno-lint-ignore-file camelcase -- the names are those of tokenizer.json
/**
 * A tokenizer.json as the metadata of a GGUF file.
 *
 * GGUF does not say how texts are cut, but names it (`tokenizer.ggml.pre`). So what is written is read again, and must cut and
 * merge as the tokenizer does: one that llama.cpp has no name for is refused, since a wrong one gives gibberish without a word.
 *
 * @module
 */
import { ggufTokenizer } from "./gguf_tokenizer.ts";
import type { GgufValue } from "./gguf_header.ts";
import type { GgufField } from "./gguf_write.ts";
import type { Json, Tokenizer } from "./tokenizer.ts";

/** Token types of llama.cpp. */
const [NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE] = [1, 2, 3, 4, 5, 6];

/** Names of ways to cut, each such that no two mean the same. */
const CUTS = ["gpt-2", "smollm", "qwen2", "llama-bpe", "tekken"] as const;

/** The parts of a tokenizer.json that are read here. */
interface TokenizerJson {
  readonly normalizer: Json | null;
  readonly pre_tokenizer: Json | null;
  readonly added_tokens: readonly AddedToken[];
  readonly model: {
    readonly type: string;
    readonly vocab: Readonly<Record<string, number>>;
    readonly merges: readonly (string | readonly [string, string])[];
    readonly unk_token: string | null;
    readonly byte_fallback?: boolean;
    readonly ignore_merges?: boolean;
  };
}

interface AddedToken {
  readonly id: number;
  readonly content: string;
  readonly single_word: boolean;
  readonly lstrip: boolean;
  readonly rstrip: boolean;
  readonly special: boolean;
}

function fault(found: string, wanted: string): TypeError {
  return new TypeError(
    `Cannot write the tokenizer as GGUF: found ${found}, wanted ${wanted}; set the model's tokenizer to null to write its weights alone`,
  );
}

/** The parts of a normalizer or pre-tokenizer that are in sequence. */
function partsOf(part: Json | null): Json[] {
  if (!part) return [];
  const inner = part.normalizers ?? part.pretokenizers;
  return Array.isArray(inner) ? inner.flatMap((own: Json) => partsOf(own)) : [part];
}

/** How texts are cut, in one spelling: patterns in turn, and what else there is. */
function cutOf({ normalizer, pre_tokenizer, model }: TokenizerJson): string {
  const steps = partsOf(pre_tokenizer).map((part) => {
    const { type, pattern, behavior, invert } = part;
    if (type === "Digits" && part.individual_digits) return "split \\p{N}";
    const regex = (pattern as Json | undefined)?.Regex;
    if (type === "Split" && regex && behavior === "Isolated" && !invert) return `split ${regex}`;
    if (type === "ByteLevel" && !part.add_prefix_space) {
      return part.use_regex === false ? "bytes" : "gpt2 bytes";
    }
    return JSON.stringify(part);
  });
  const before = partsOf(normalizer).map(({ type, ...rest }) => ({ type, ...rest }));
  return JSON.stringify([before, steps, model.ignore_merges ?? false]);
}

/** The name of the way in which a byte-level tokenizer cuts texts. */
function preOf(json: TokenizerJson): string {
  const own = cutOf(json);
  for (const pre of CUTS) {
    const metadata = new Map<string, GgufValue>([
      ["tokenizer.ggml.model", "gpt2"],
      ["tokenizer.ggml.pre", pre],
      ["tokenizer.ggml.tokens", ["a"]],
      ["tokenizer.ggml.merges", []],
    ]);
    const { json: other } = ggufTokenizer({ path: pre, metadata });
    if (cutOf(other as unknown as TokenizerJson) === own) return pre;
  }
  const steps = [...partsOf(json.normalizer), ...partsOf(json.pre_tokenizer)];
  throw fault(
    `a way of cutting texts that llama.cpp has no name for (${
      steps.map(({ type }) => type).join(", ") || "none"
    })`,
    `that of ${CUTS.join(", ")}`,
  );
}

/** Merges as pairs. */
function pairsOf({ model }: TokenizerJson): (readonly [string, string])[] {
  return model.merges.map((merge) => {
    if (typeof merge !== "string") return merge;
    const at = merge.indexOf(" ", 1);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
}

/** Tokens by id, and their types; ids that no token has are filled up to the rows of the embedding. */
function tokensOf(json: TokenizerJson, rows: number): { tokens: string[]; types: Int32Array } {
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(json.model.vocab)) tokens[id] = token;
  for (const { id, content } of json.added_tokens) tokens[id] = content;
  if (tokens.length > rows) {
    throw fault(`${tokens.length} tokens`, `at most the ${rows} rows of the model's embedding`);
  }
  const added = new Map(json.added_tokens.map((token) => [token.id, token]));
  const types = new Int32Array(rows);
  for (let id = 0; id < rows; id++) {
    const token = added.get(id);
    if (tokens[id] === undefined) {
      tokens[id] = `[PAD${id}]`;
      types[id] = UNUSED;
    } else if (tokens[id] === json.model.unk_token) types[id] = UNKNOWN;
    else if (token) types[id] = token.special ? CONTROL : USER_DEFINED;
    else if (json.model.byte_fallback && /^<0x[0-9A-F]{2}>$/.test(tokens[id])) types[id] = BYTE;
    else types[id] = NORMAL;
  }
  return { tokens, types };
}

/** Whether a SentencePiece tokenizer puts a space before a text, or undefined if it does something else. */
function prefixOf({ normalizer, pre_tokenizer }: TokenizerJson): boolean | undefined {
  const parts = partsOf(normalizer);
  const [last] = parts.slice(-1);
  const replaces = last?.type === "Replace" && last.content === "▁" &&
    (last.pattern as Json).String === " ";
  if (!pre_tokenizer && replaces && parts.length === 1) return false;
  if (!pre_tokenizer && replaces && parts.length === 2 && parts[0].prepend === "▁") return true;
  const scheme = pre_tokenizer?.prepend_scheme;
  const isMetaspace = pre_tokenizer?.type === "Metaspace" && pre_tokenizer.split === false;
  if (parts.length > 0 || !isMetaspace) return undefined;
  return scheme === "always" ? true : scheme === "never" ? false : undefined;
}

/** What says how texts are cut and merged: SentencePiece's kind has scores instead of merges. */
function sentencePiece(json: TokenizerJson, tokens: readonly string[]): [string, GgufField][] {
  const prefix = prefixOf(json);
  if (prefix === undefined) {
    throw fault("spaces treated in another way than by llama.cpp", "SentencePiece's: ▁ for each");
  }
  const ranks = new Map<string, number>();
  for (const [left, right] of pairsOf(json)) {
    if (!ranks.has(left + right)) ranks.set(left + right, ranks.size);
  }
  const scores = Float32Array.from(tokens, (token) => -(ranks.get(token) ?? -1) - 1);
  return [
    ["tokenizer.ggml.scores", scores],
    ["tokenizer.ggml.add_space_prefix", prefix],
  ];
}

/** The id of the token for what has none. A byte-level model needs none, but its configuration may name one. */
function unknownOf(tokenizer: Tokenizer, { model }: TokenizerJson): number | null {
  const named = tokenizer.config.unk_token;
  const token = model.unk_token ?? (named as Json | undefined)?.content ?? named;
  return typeof token === "string" ? tokenizer.idOf(token) : null;
}

/** Throws unless the tokens of a text with specials around it are those that llama.cpp would give. */
function addedAround(tokenizer: Tokenizer): { bos: boolean; eos: boolean } {
  const { bosId, eosId } = tokenizer;
  const plain = [...tokenizer.encode("a")];
  const ids = [...tokenizer.encodeWithSpecials("a")];
  const bos = bosId !== null && ids.length > plain.length && ids[0] === bosId;
  const eos = eosId !== null && ids.length > plain.length + Number(bos) && ids.at(-1) === eosId;
  const wanted = [...bos ? [bosId] : [], ...plain, ...eos ? [eosId] : []];
  if (wanted.join() === ids.join()) return { bos, eos };
  throw fault("other tokens around each text", "only the bos token before and eos behind it");
}

/** The chat template, or the several by name. */
function* templatesOf({ config }: Tokenizer): Generator<[string, GgufField]> {
  const key = "tokenizer.chat_template";
  const template = config.chat_template;
  if (typeof template === "string") yield [key, template];
  if (!Array.isArray(template)) return;
  for (const { name, template: own } of template as { name: string; template: string }[]) {
    yield [name === "default" ? key : `${key}.${name}`, own];
  }
}

/** Throws unless a tokenizer read back from the metadata has the same tokens and merges. */
function checkMerges(json: TokenizerJson, metadata: ReadonlyMap<string, GgufField>): void {
  const read = ggufTokenizer({
    path: "the metadata",
    metadata: metadata as ReadonlyMap<string, GgufValue>,
  });
  const show = (own: TokenizerJson) => JSON.stringify(pairsOf(own));
  if (show(read.json as unknown as TokenizerJson) === show(json)) return;
  throw fault("merges that do not follow from scores of tokens", "such as SentencePiece's are");
}

/**
 * The metadata of a tokenizer: tokens, types, merges or scores, special tokens, chat template.
 *
 * @param tokenizer the tokenizer
 * @param rows of the model's embedding: so many tokens llama.cpp wants
 * @throws {TypeError} if GGUF has no way to say what the tokenizer does
 */
export function tokenizerMetadata(tokenizer: Tokenizer, rows: number): Map<string, GgufField> {
  const json = tokenizer.json as unknown as TokenizerJson;
  if (json.model?.type !== "BPE") throw fault(`the kind "${json.model?.type}"`, '"BPE"');
  const strips = json.added_tokens.find((own) => own.lstrip || own.rstrip || own.single_word);
  if (strips) {
    throw fault(`"${strips.content}", which takes spaces around it or stands alone`, "neither");
  }
  const isPiece = json.model.byte_fallback === true;
  const { tokens, types } = tokensOf(json, rows);
  const metadata = new Map<string, GgufField>([
    ["tokenizer.ggml.model", isPiece ? "llama" : "gpt2"],
    ["tokenizer.ggml.pre", isPiece ? "default" : preOf(json)],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
  ]);
  const rest: [string, GgufField][] = isPiece
    ? sentencePiece(json, tokens)
    : [["tokenizer.ggml.merges", pairsOf(json).map((pair) => pair.join(" "))]];
  for (const [key, field] of rest) metadata.set(key, field);
  if (isPiece) checkMerges(json, metadata);
  const { bosId, eosId, padId } = tokenizer;
  const unknown = unknownOf(tokenizer, json);
  for (
    const [name, id] of [
      ["bos", bosId],
      ["eos", eosId],
      ["unknown", unknown],
      ["padding", padId],
    ] as const
  ) {
    if (id !== null) metadata.set(`tokenizer.ggml.${name}_token_id`, { type: "u32", value: id });
  }
  const { bos, eos } = addedAround(tokenizer);
  metadata.set("tokenizer.ggml.add_bos_token", bos);
  metadata.set("tokenizer.ggml.add_eos_token", eos);
  for (const [key, field] of templatesOf(tokenizer)) metadata.set(key, field);
  return metadata;
}
