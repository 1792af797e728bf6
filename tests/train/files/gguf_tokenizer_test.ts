import type { GgufValue } from "../../../train/files/gguf.ts";
import { ggufTokenizer } from "../../../train/files/gguf_tokenizer.ts";
import { Tokenizer } from "../../../train/files/tokenizer.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { assertEquals, assertThrows } from "../../assert.ts";

/** Metadata of a byte-level tokenizer as llama.cpp writes it, trained on a few words. */
function metadata(pre: string, more: Record<string, GgufValue> = {}): Map<string, GgufValue> {
  const json = trainBpe(["abc 123 1234 'S abc\n\n café  12", "12 12 abc abc 'S 'S"], {
    vocabSize: 290,
    specialTokens: ["<end>", "<begin>"],
  });
  const { vocab, merges } = json.model;
  const tokens: string[] = [];
  for (const [token, id] of Object.entries(vocab)) tokens[id] = token;
  for (const { id, content } of json.added_tokens as { id: number; content: string }[]) {
    tokens[id] = content;
  }
  const types = Int32Array.from(tokens, (token) => token.startsWith("<") && token[1] ? 3 : 1);
  return new Map<string, GgufValue>([
    ["tokenizer.ggml.model", "gpt2"],
    ["tokenizer.ggml.pre", pre],
    ["tokenizer.ggml.tokens", tokens],
    ["tokenizer.ggml.token_type", types],
    ["tokenizer.ggml.merges", merges],
    ["tokenizer.ggml.bos_token_id", tokens.indexOf("<begin>")],
    ["tokenizer.ggml.eos_token_id", tokens.indexOf("<end>")],
    ...Object.entries(more),
  ]);
}

function make(pre: string, more: Record<string, GgufValue> = {}): Tokenizer {
  return ggufTokenizer({ path: "m.gguf", metadata: metadata(pre, more) });
}

/** The pieces of a text, in the vocabulary's spelling. */
function pieces(tokenizer: Tokenizer, text: string): string {
  return Array.from(tokenizer.encode(text), (id) => tokenizer.tokenOf(id)).join("|");
}

Deno.test("each pre-tokenizer cuts as llama.cpp does: digits alone, in threes, or together", () => {
  assertEquals(pieces(make("gpt-2"), "abc 1212"), "abc|Ġ12|12");
  assertEquals(pieces(make("smollm"), "abc 1212"), "abc|Ġ|1|2|1|2");
  assertEquals(pieces(make("qwen2"), "abc 1212"), "abc|Ġ|1|2|1|2");
  assertEquals(pieces(make("llama-bpe"), "abc 1212"), "abc|Ġ|12|1|2");
  // A digit of \p{N} that is not one of 0 to 9 is cut off too.
  assertEquals(pieces(make("smollm"), "1½"), "1|Â|½");
});

Deno.test("special tokens, bos, eos and the chat template come along", () => {
  const template = "{% for message in messages %}{{ message.content }}{% endfor %}";
  const plain = make("smollm", { "tokenizer.chat_template": template });
  assertEquals(plain.config.chat_template, template);
  assertEquals([plain.tokenOf(plain.bosId!), plain.tokenOf(plain.eosId!)], ["<begin>", "<end>"]);
  assertEquals(plain.addsBos, false);
  assertEquals(pieces(plain, "abc<end>"), "abc|<end>");
  assertEquals(plain.decode(plain.encode("abc 12<end>")), "abc 12");
  const ends = make("smollm", {
    "tokenizer.ggml.add_bos_token": true,
    "tokenizer.ggml.add_eos_token": true,
  });
  const { bosId, eosId } = ends;
  assertEquals([...ends.encodeWithSpecials("abc")], [bosId, ...ends.encode("abc"), eosId]);
  assertEquals(ends.addsBos, true);
  // Llama 3's files add it unless they say otherwise.
  assertEquals(make("llama-bpe").addsBos, true);
  assertEquals(make("llama-bpe", { "tokenizer.ggml.add_bos_token": false }).addsBos, false);
});

Deno.test("what the tokenizer says of itself makes the same tokenizer again", () => {
  const first = make("qwen2");
  const json = JSON.parse(JSON.stringify(first.json));
  const again = new Tokenizer(json, { config: JSON.parse(JSON.stringify(first.config)) });
  for (const text of ["abc 123\n\n'S café", "cafe\u0301", "  12", "__proto__"]) {
    assertEquals(again.encode(text), first.encode(text));
  }
});

Deno.test("a vocabulary with scores is merged as SentencePiece merges it", async () => {
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
  assertEquals(tokenizer.addsBos, true);
  for (const { text, ids, decoded } of golden.cases) {
    assertEquals([...tokenizer.encode(text)], ids, text);
    assertEquals(tokenizer.decode(ids), decoded, text);
  }
});

Deno.test("a tokenizer that nibble cannot make is refused by key", () => {
  const refuses = (more: Record<string, GgufValue>, text: string) =>
    assertThrows(() => make("smollm", more), TypeError, text);
  refuses({ "tokenizer.ggml.model": "bert" }, '"tokenizer.ggml.model" is "bert", wanted "gpt2" or');
  refuses({ "tokenizer.ggml.pre": "viking" }, '"tokenizer.ggml.pre" is "viking", wanted one of');
  refuses({ "tokenizer.ggml.tokens": ["a", "a"] }, "each token once, but 0 and 1 are the same");
  refuses({ "tokenizer.ggml.tokens": 7 }, "is 7, wanted an array of strings");
  refuses({ "tokenizer.ggml.token_type": Int32Array.of(1) }, "an array of 1, wanted an array of 2");
  refuses({ "tokenizer.ggml.merges": ["ab"] }, "but merge 0 is not");
  refuses({ "tokenizer.ggml.eos_token_id": 1e6 }, "is 1000000, wanted the id of one of");
  refuses({ "tokenizer.chat_template": 1 }, '"tokenizer.chat_template" is 1, wanted text');
  const none = new Map<string, GgufValue>();
  assertThrows(() => ggufTokenizer({ path: "m.gguf", metadata: none }), TypeError, "is missing");
});
