// deno-lint-ignore-file camelcase -- the names are those of tokenizer.json
/**
 * Tokenizers out of the metadata of GGUF files, as the content of a tokenizer.json: what `Tokenizer` and transformers read.
 *
 * @module
 */
import { GgufFields } from "./gguf_fields.ts";
import type { GgufValue } from "./gguf_header.ts";
import { type Json, Tokenizer } from "./tokenizer.ts";

/** Token types of llama.cpp. */
const [UNKNOWN, CONTROL, USER_DEFINED] = [2, 3, 4];

/** How a text is cut before merging. */
interface Cut {
  /** tokenizer.json's `pre_tokenizer` before bytes become characters: patterns of which each match is a piece, in turn. */
  readonly patterns: readonly string[];
  /** Whether GPT-2's own pattern comes last. */
  readonly gpt2: boolean;
  /** Whether a piece that is a token is taken whole, whatever the merges say. */
  readonly ignoreMerges?: boolean;
  /** Whether texts begin with the bos token, unless the file says otherwise. */
  readonly addBos?: boolean;
  /** Whether texts are composed (Unicode's NFC) first, as the tokenizers of these models do; llama.cpp leaves it out. */
  readonly compose?: boolean;
}

/** The patterns of Llama 3 and of Qwen2 differ in how many digits a piece may have. */
function modern(digits: string): string {
  return `(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|${digits}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|` +
    "\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";
}

const UPPER = "\\p{Lu}\\p{Lt}\\p{Lm}\\p{Lo}\\p{M}";
const LOWER = "\\p{Ll}\\p{Lm}\\p{Lo}\\p{M}";
const TEKKEN =
  `[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]*[${LOWER}]+|[^\\r\\n\\p{L}\\p{N}]?[${UPPER}]+[${LOWER}]*|` +
  "\\p{N}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n/]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

const GPT2: Cut = { patterns: [], gpt2: true };
/** Each digit is a piece of its own. */
const DIGITS: Cut = { patterns: ["\\p{N}"], gpt2: true };
const QWEN2: Cut = { patterns: [modern("\\p{N}")], gpt2: false, compose: true };
const LLAMA3: Cut = {
  patterns: [modern("\\p{N}{1,3}")],
  gpt2: false,
  ignoreMerges: true,
  addBos: true,
};

/** By `tokenizer.ggml.pre`. */
const CUTS: ReadonlyMap<string, Cut> = new Map([
  ...["gpt-2", "phi-2", "mpt", "olmo", "jais", "exaone4"].map((name) => [name, GPT2] as const),
  ...["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"]
    .map((name) => [name, DIGITS] as const),
  ...["qwen2", "deepseek-r1-qwen", "megrez"].map((name) => [name, QWEN2] as const),
  ...["llama-bpe", "llama3", "llama-v3", "falcon3"].map((name) => [name, LLAMA3] as const),
  ["tekken", { ...LLAMA3, patterns: [TEKKEN] }],
]);

/** A vocabulary: tokens by id, and their types. */
interface Vocabulary {
  readonly tokens: readonly string[];
  readonly types: ArrayLike<number> | undefined;
  readonly ids: Json;
}

function vocabularyOf(fields: GgufFields): Vocabulary {
  const key = "tokenizer.ggml.tokens";
  const tokens = fields.words(key);
  // Without a prototype, so that a token "__proto__" is one like all others.
  const ids: Json = Object.create(null);
  for (const [id, token] of tokens.entries()) {
    if (Object.hasOwn(ids, token)) {
      throw fields.fault(key, `each token once, but ${ids[token]} and ${id} are the same`);
    }
    ids[token] = id;
  }
  return { tokens, types: fields.numbers("tokenizer.ggml.token_type", tokens.length), ids };
}

/** The tokens that are found in a text as they are, before it is cut. */
function addedTokens({ tokens, types }: Vocabulary): Json[] {
  const added: Json[] = [];
  for (const [id, content] of tokens.entries()) {
    const type = types?.[id] ?? 1;
    if (type !== CONTROL && type !== USER_DEFINED && type !== UNKNOWN) continue;
    const special = type !== USER_DEFINED;
    const flags = { single_word: false, lstrip: false, rstrip: false, normalized: false, special };
    added.push({ id, content, ...flags });
  }
  return added;
}

/** Merges in their order, from "a b" to ["a", "b"]. */
function mergesOf(fields: GgufFields): [string, string][] {
  const key = "tokenizer.ggml.merges";
  return fields.words(key).map((merge, i) => {
    // A token may be a space in some vocabularies: the first character always belongs to the left part.
    const at = merge.indexOf(" ", 1);
    if (at < 0) throw fields.fault(key, `two parts with a space between, but merge ${i} is not`);
    return [merge.slice(0, at), merge.slice(at + 1)];
  });
}

/**
 * SentencePiece's vocabularies have scores instead of merges: the pair whose token has the best score is merged first. So every
 * way to cut a token into two tokens is a merge, ranked by its score, as transformers does it.
 */
function mergesByScore({ tokens, ids }: Vocabulary, scores: ArrayLike<number>): [string, string][] {
  const merges: { left: string; right: string; score: number }[] = [];
  for (const [id, token] of tokens.entries()) {
    const characters = Array.from(token);
    // No merge makes a token of hundreds of characters; cutting one of a megabyte everywhere would take forever.
    if (characters.length > MAX_PIECE) continue;
    for (let i = 1; i < characters.length; i++) {
      const left = characters.slice(0, i).join("");
      const right = characters.slice(i).join("");
      if (Object.hasOwn(ids, left) && Object.hasOwn(ids, right)) {
        merges.push({ left, right, score: scores[id] });
      }
    }
  }
  const length = (text: string) => Array.from(text).length;
  merges.sort((a, b) =>
    b.score - a.score || length(b.left) - length(a.left) || length(b.right) - length(a.right)
  );
  return merges.map(({ left, right }) => [left, right]);
}

/** The most characters of a token that merges make. */
const MAX_PIECE = 256;

/** The parts of a tokenizer.json that depend on its kind. */
interface Kind {
  readonly parts: Json;
  readonly addsBos: boolean;
}

function byteLevel(fields: GgufFields, vocabulary: Vocabulary): Kind {
  const name = fields.text("tokenizer.ggml.pre");
  const cut = CUTS.get(name ?? "");
  if (!cut) throw fields.fault("tokenizer.ggml.pre", `one of ${[...CUTS.keys()].join(", ")}`);
  const bytes = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
  const pretokenizers: Json[] = cut.patterns.map((Regex) => ({
    type: "Split",
    pattern: { Regex },
    behavior: "Isolated",
    invert: false,
  }));
  pretokenizers.push({ ...bytes, use_regex: cut.gpt2 });
  const parts = {
    normalizer: cut.compose ? { type: "NFC" } : null,
    pre_tokenizer: { type: "Sequence", pretokenizers },
    decoder: { ...bytes, use_regex: true },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: null,
      continuing_subword_prefix: "",
      end_of_word_suffix: "",
      fuse_unk: false,
      byte_fallback: false,
      ignore_merges: cut.ignoreMerges ?? false,
      vocab: vocabulary.ids,
      merges: mergesOf(fields),
    },
  };
  return { parts, addsBos: cut.addBos ?? false };
}

function sentencePiece(fields: GgufFields, vocabulary: Vocabulary): Kind {
  const key = "tokenizer.ggml.scores";
  const scores = fields.numbers(key, vocabulary.tokens.length);
  if (!scores) throw fields.fault(key, "the scores of the tokens");
  const unknown = fields.token("tokenizer.ggml.unknown_token_id", vocabulary.tokens.length) ?? 0;
  const prefix = fields.flag("tokenizer.ggml.add_space_prefix", true);
  const spaces = { type: "Replace", pattern: { String: " " }, content: "▁" };
  const back = { type: "Replace", pattern: { String: "▁" }, content: " " };
  const parts = {
    normalizer: {
      type: "Sequence",
      normalizers: [...prefix ? [{ type: "Prepend", prepend: "▁" }] : [], spaces],
    },
    pre_tokenizer: null,
    decoder: {
      type: "Sequence",
      decoders: [
        back,
        { type: "ByteFallback" },
        { type: "Fuse" },
        ...prefix ? [{ type: "Strip", content: " ", start: 1, stop: 0 }] : [],
      ],
    },
    model: {
      type: "BPE",
      dropout: null,
      unk_token: vocabulary.tokens[unknown],
      continuing_subword_prefix: null,
      end_of_word_suffix: null,
      fuse_unk: true,
      byte_fallback: true,
      ignore_merges: false,
      vocab: vocabulary.ids,
      merges: mergesByScore(vocabulary, scores),
    },
  };
  return { parts, addsBos: true };
}

/** The post-processor that puts bos and eos around a text. */
function template(bos: [string, number] | null, eos: [string, number] | null): Json | null {
  if (!bos && !eos) return null;
  const sequence = (id: string, type: number) => ({ Sequence: { id, type_id: type } });
  const around = (token: [string, number] | null, type: number) =>
    token ? [{ SpecialToken: { id: token[0], type_id: type } }] : [];
  const line = (id: string, type: number) => [
    ...around(bos, type),
    sequence(id, type),
    ...around(eos, type),
  ];
  const special_tokens: Json = {};
  for (const token of [bos, eos]) {
    if (token) special_tokens[token[0]] = { id: token[0], ids: [token[1]], tokens: [token[0]] };
  }
  const pair = [...line("A", 0), ...line("B", 1)];
  return { type: "TemplateProcessing", single: line("A", 0), pair, special_tokens };
}

/**
 * The tokenizer in a GGUF file's metadata. `config` has the special tokens and the chat template, as a tokenizer_config.json
 * has them. Texts are cut as llama.cpp cuts them.
 *
 * @param file an open file, or its path and metadata
 * @throws {TypeError} if the file has no tokenizer, one of a kind that nibble does not know, or one whose parts do not fit
 *
 * @example
 * ```ts
 * import { ggufTokenizer } from "@nibble/nibble";
 *
 * const tokenizer = ggufTokenizer({
 *   path: "tiny.gguf",
 *   metadata: new Map<string, string | string[]>([
 *     ["tokenizer.ggml.model", "gpt2"],
 *     ["tokenizer.ggml.pre", "smollm"],
 *     ["tokenizer.ggml.tokens", ["c", "a", "t", "ca", "1"]],
 *     ["tokenizer.ggml.merges", ["c a"]],
 *   ]),
 * });
 * console.log(tokenizer.encode("cat11")); // Int32Array(4) [ 3, 2, 4, 4 ]
 * ```
 */
export function ggufTokenizer(
  file: { readonly path: string; readonly metadata: ReadonlyMap<string, GgufValue> },
): Tokenizer {
  const fields = new GgufFields(file);
  const model = fields.text("tokenizer.ggml.model");
  if (model !== "gpt2" && model !== "llama") {
    throw fields.fault("tokenizer.ggml.model", '"gpt2" or "llama"');
  }
  const vocabulary = vocabularyOf(fields);
  const { tokens } = vocabulary;
  const kind = (model === "gpt2" ? byteLevel : sentencePiece)(fields, vocabulary);
  const special = (name: string) => fields.token(`tokenizer.ggml.${name}_token_id`, tokens.length);
  const pair = (id: number | null): [string, number] | null =>
    id === null ? null : [tokens[id], id];
  const [bos, eos] = [pair(special("bos")), pair(special("eos"))];
  const [unknown, padding] = [pair(special("unknown")), pair(special("padding"))];
  const addsBos = fields.flag("tokenizer.ggml.add_bos_token", kind.addsBos) && bos !== null;
  const addsEos = fields.flag("tokenizer.ggml.add_eos_token", false) && eos !== null;
  const json: Json = {
    version: "1.0",
    truncation: null,
    padding: null,
    added_tokens: addedTokens(vocabulary),
    ...kind.parts,
    post_processor: template(addsBos ? bos : null, addsEos ? eos : null),
  };
  const config: Json = {
    tokenizer_class: "PreTrainedTokenizerFast",
    clean_up_tokenization_spaces: false,
    bos_token: bos?.[0] ?? null,
    eos_token: eos?.[0] ?? null,
    unk_token: unknown?.[0] ?? null,
    pad_token: padding?.[0] ?? null,
    add_bos_token: addsBos,
    add_eos_token: addsEos,
  };
  const chat = fields.text("tokenizer.chat_template");
  if (chat !== undefined) config.chat_template = chat;
  return new Tokenizer(json, { config });
}
