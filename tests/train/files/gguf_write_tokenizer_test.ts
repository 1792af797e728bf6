// deno-lint-ignore-file camelcase -- the names are those of tokenizer.json
import type { GgufValue } from "../../../train/files/gguf.ts";
import { ggufTokenizer } from "../../../train/files/gguf_tokenizer.ts";
import type { GgufField } from "../../../train/files/gguf_write.ts";
import { tokenizerMetadata } from "../../../train/files/gguf_write_tokenizer.ts";
import { type Json, Tokenizer } from "../../../train/files/tokenizer.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

const TEXTS = [
  "a cat",
  "abc 123\n\n'S café ½ 1234",
  "  two  spaces ",
  "<end>abc<begin>",
  "e\u0301\u4e2d\u{1f600}\t.",
  "__proto__",
  "",
];

/** A byte-level tokenizer.json with some parts changed. */
function bytes(changes: Json = {}): Json {
  const json = trainBpe(["abc 123 1234 'S abc\n\n café  12", "12 12 abc abc 'S 'S"], {
    vocabSize: 290,
    specialTokens: ["<end>", "<begin>"],
  });
  return { ...json, post_processor: null, ...changes };
}

const ENDS: Json = { bos_token: "<begin>", eos_token: "<end>" };

/** What a reader of the file has: numbers without their types. */
function asRead(metadata: ReadonlyMap<string, GgufField>): Map<string, GgufValue> {
  return new Map(Array.from(metadata, ([key, field]) => {
    const isNumber = typeof field === "object" && "value" in field;
    return [key, (isNumber ? field.value : field) as GgufValue];
  }));
}

function again(tokenizer: Tokenizer, rows = tokenizer.vocabSize): Tokenizer {
  return ggufTokenizer({ path: "m.gguf", metadata: asRead(tokenizerMetadata(tokenizer, rows)) });
}

function assertSame(found: Tokenizer, wanted: Tokenizer, what: string): void {
  for (const text of TEXTS) {
    assertEquals(found.encode(text), wanted.encode(text), `${what}: ${text}`);
    assertEquals(found.encodeWithSpecials(text), wanted.encodeWithSpecials(text), what);
    assertEquals(found.decode(found.encode(text)), wanted.decode(wanted.encode(text)), what);
  }
  const ids = ({ bosId, eosId, padId, addsBos }: Tokenizer) => [bosId, eosId, padId, addsBos];
  assertEquals(ids(found), ids(wanted), what);
}

const LEVEL = { type: "ByteLevel", add_prefix_space: false, trim_offsets: true };
const MODERN =
  "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}| ?[^\\s\\p{L}\\p{N}]+" +
  "[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+";

function split(Regex: string): Json {
  const cut = { type: "Split", pattern: { Regex }, behavior: "Isolated", invert: false };
  return { type: "Sequence", pretokenizers: [cut, { ...LEVEL, use_regex: false }] };
}

Deno.test("ways of cutting texts get the name by which llama.cpp knows them", () => {
  const digits = { type: "Digits", individual_digits: true };
  const level = { ...LEVEL, use_regex: true };
  const llama3 = bytes({ pre_tokenizer: split(MODERN.replace("|\\p{N}|", "|\\p{N}{1,3}|")) });
  const cases: [pre: string, json: Json][] = [
    ["gpt-2", bytes()],
    ["smollm", bytes({ pre_tokenizer: { type: "Sequence", pretokenizers: [digits, level] } })],
    ["qwen2", bytes({ normalizer: { type: "NFC" }, pre_tokenizer: split(MODERN) })],
    ["llama-bpe", { ...llama3, model: { ...llama3.model as Json, ignore_merges: true } }],
  ];
  for (const [pre, json] of cases) {
    const tokenizer = new Tokenizer(json, { config: { ...ENDS, pad_token: "<end>" } });
    assertEquals(tokenizerMetadata(tokenizer, 290).get("tokenizer.ggml.pre"), pre);
    assertSame(again(tokenizer), tokenizer, pre);
  }
});

Deno.test("bos, eos, templates, token types and spare rows are written", () => {
  const sequence = { Sequence: { id: "A", type_id: 0 } };
  const token = (id: string) => ({ SpecialToken: { id, type_id: 0 } });
  const ids = new Tokenizer(bytes());
  const special = (own: string) => ({ id: own, ids: [ids.idOf(own)], tokens: [own] });
  const post_processor = {
    type: "TemplateProcessing",
    single: [token("<begin>"), sequence, token("<end>")],
    pair: [token("<begin>"), sequence, { Sequence: { id: "B", type_id: 1 } }],
    special_tokens: { "<begin>": special("<begin>"), "<end>": special("<end>") },
  };
  const chat_template = [
    { name: "default", template: "plain" },
    { name: "tool_use", template: "tools" },
  ];
  const json = bytes({ post_processor });
  const added = [...json.added_tokens as Json[]];
  added.push({ ...added[0], id: 290, content: "<tool>", special: false });
  const tokenizer = new Tokenizer({ ...json, added_tokens: added }, {
    config: { ...ENDS, unk_token: "<end>", chat_template },
  });
  const metadata = tokenizerMetadata(tokenizer, 293);
  assertSame(again(tokenizer, 293), tokenizer, "around");
  const unknown = { type: "u32", value: tokenizer.eosId };
  assertEquals(metadata.get("tokenizer.ggml.unknown_token_id"), unknown as GgufField);
  assertEquals(metadata.get("tokenizer.chat_template"), "plain");
  assertEquals(metadata.get("tokenizer.chat_template.tool_use"), "tools");
  const tokens = metadata.get("tokenizer.ggml.tokens") as string[];
  const types = metadata.get("tokenizer.ggml.token_type") as Int32Array;
  assertEquals([tokens.length, types.length], [293, 293]);
  assertEquals(tokens.slice(290), ["<tool>", "[PAD291]", "[PAD292]"]);
  const typeOf = (token: string) => types[tokens.indexOf(token)];
  assertEquals(["a", "<end>", "<tool>", "[PAD292]"].map(typeOf), [1, 3, 4, 5]);
});

Deno.test("merges as pairs or as text are the same", () => {
  const json = bytes();
  const model = json.model as { merges: string[] };
  const pairs = new Tokenizer({
    ...json,
    model: { ...model, merges: model.merges.map((merge) => merge.split(" ")) },
  });
  const key = "tokenizer.ggml.merges";
  assertEquals(tokenizerMetadata(pairs, 290).get(key), model.merges);
  assertEquals(tokenizerMetadata(new Tokenizer(json), 290).get(key), model.merges);
});

Deno.test("SentencePiece's kind gets scores from which the same merges follow", async () => {
  const golden = JSON.parse(
    await Deno.readTextFile(new URL("../../golden/gguf/sentencepiece.json", import.meta.url)),
  );
  const tokenizer = ggufTokenizer({
    path: "m.gguf",
    metadata: new Map<string, GgufValue>([
      ["tokenizer.ggml.model", "llama"],
      ["tokenizer.ggml.tokens", golden.tokens],
      ["tokenizer.ggml.scores", Float32Array.from(golden.scores)],
      ["tokenizer.ggml.token_type", Int32Array.from(golden.types)],
      ["tokenizer.ggml.bos_token_id", golden.bos],
      ["tokenizer.ggml.eos_token_id", golden.eos],
      ["tokenizer.ggml.unknown_token_id", golden.unk],
    ]),
  });
  const metadata = tokenizerMetadata(tokenizer, golden.tokens.length);
  assertEquals(metadata.get("tokenizer.ggml.model"), "llama");
  assertEquals([...metadata.get("tokenizer.ggml.token_type") as Int32Array], golden.types);
  const found = ggufTokenizer({ path: "m.gguf", metadata: asRead(metadata) });
  for (const { text, ids, decoded } of golden.cases) {
    assertEquals([...found.encode(text)], ids, text);
    assertEquals(found.decode(ids), decoded, text);
  }
  // Merges in another order than scores can give.
  const json = structuredClone(tokenizer.json);
  (json.model as { merges: unknown[] }).merges.splice(0, 1);
  const other = new Tokenizer(json, { config: tokenizer.config });
  const write = () => tokenizerMetadata(other, golden.tokens.length);
  assertThrows(write, TypeError, "merges that do not follow from scores of tokens");
});

Deno.test("a tokenizer that GGUF cannot say is refused, with a way out", () => {
  const refuses = (json: Json, text: string, rows = 290) => {
    const write = () => tokenizerMetadata(new Tokenizer(json), rows);
    const { message } = assertThrows(write, TypeError, text);
    assert(message.endsWith("set the model's tokenizer to null to write its weights alone"));
  };
  const whitespace = { type: "Sequence", pretokenizers: [{ type: "Whitespace" }, LEVEL] };
  refuses(
    bytes({ pre_tokenizer: whitespace }),
    "has no name for (Whitespace, ByteLevel), wanted th",
  );
  refuses(bytes({ normalizer: { type: "Lowercase" } }), "has no name for (Lowercase, ByteLevel)");
  refuses(bytes({ pre_tokenizer: { ...LEVEL, add_prefix_space: true } }), "has no name for (ByteL");
  refuses(bytes(), "tokens, wanted at most the 100 rows of the model", 100);
  const added = [...bytes().added_tokens as Json[]];
  added[0] = { ...added[0], lstrip: true };
  refuses(bytes({ added_tokens: added }), '"<end>", which takes spaces around it');
});
