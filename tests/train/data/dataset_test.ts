import { trainBpe } from "../../../train/data/bpe.ts";
import {
  readJsonl,
  readText,
  tokenizeExamples,
  tokenizeText,
  tokenStream,
} from "../../../train/data/dataset.ts";
import { loadTokenizer, Tokenizer } from "../../../train/files/tokenizer.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../../assert.ts";

const folder = await Deno.makeTempDir();
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

async function file(text: string): Promise<string> {
  await Deno.writeTextFile(`${folder}/set`, text);
  return `${folder}/set`;
}

/** Bytes only: "a" is 67 with two special tokens before; `begins` says whether texts get the begin token. */
function bytes(begins: boolean, config: Record<string, unknown> = { eos_token: "<e>" }) {
  const json = trainBpe([], {
    vocabSize: 258,
    specialTokens: ["<b>", "<e>"],
    bosToken: begins ? "<b>" : undefined,
  });
  return new Tokenizer(json, { config: { bos_token: "<b>", ...config } });
}
const a = bytes(true).encode("a")[0];

Deno.test("readJsonl() reads rows under any field names, past empty lines and a byte order mark", async () => {
  const path = await file('\ufeff{"q": "1", "a": "2"}\r\n\n{"q": "", "a": "3", "more": 4}');
  assertEquals(await readJsonl(path, { promptField: "q", answerField: "a" }), [
    { prompt: "1", answer: "2" },
    { prompt: "", answer: "3" },
  ]);
});

Deno.test("readJsonl() says which line is wrong, what it has and what was wanted", async () => {
  const row = '{"prompt": "p", "answer": "a"}\n';
  const cases: [string, ErrorConstructor, string][] = [
    [row + "{oops", SyntaxError, "Cannot read line 2 of"],
    ["[1]", SyntaxError, "it is [1]; wanted one JSON object a line, without a list around them"],
    [
      ' [\n {"prompt": "a", "answer": "b"}\n]',
      SyntaxError,
      "it begins a list); wanted one JSON object",
    ],
    ['{"prompt": "a",\n"answer": "b"}', SyntaxError, "); wanted one JSON object a line"],
    ["null", SyntaxError, "it is null; wanted one JSON object a line"],
    [row + '{"text": "x", "answer": "a"}', TypeError, 'fields "text", "answer", wanted "prompt"'],
    ["{}", TypeError, "it has the fields none"],
    ['{"prompt": "p", "answer": 4}', TypeError, 'its "answer" is 4, wanted a text'],
    ['{"prompt": "p", "answer": ""}', RangeError, 'its "answer" is empty'],
    ["\n \n", RangeError, "it is empty; wanted a JSON object a line"],
  ];
  for (const [text, type, message] of cases) {
    const path = await file(text);
    await assertRejects(() => readJsonl(path), type, message);
  }
  await assertRejects(() => readJsonl(`${folder}/no`), Error, "there is no such file");
  const path = await file('{"answer": "a"}');
  const odd = () => readJsonl(path, { promptField: "constructor" });
  await assertRejects(odd, TypeError, 'wanted "constructor"');
});

Deno.test("readText() gives the whole and its lines", async () => {
  const path = await file("one\r\n\ntwo\n");
  assertEquals(await readText(path), { text: "one\r\n\ntwo\n", lines: ["one", "two"] });
  const empty = await file(" \n");
  await assertRejects(() => readText(empty), RangeError, "it is empty");
  await assertRejects(() => readText(folder), Error, "it is a folder");
});

Deno.test("tokenizeExamples() labels the answer and the end, shifted by one", () => {
  const example = { prompt: "aa", answer: "bc" };
  const [begun] = tokenizeExamples(bytes(true), [example]);
  assertEquals(begun.ids, Int32Array.of(0, a, a, a + 1, a + 2));
  assertEquals(begun.labels, Int32Array.of(-100, -100, a + 1, a + 2, 1));
  const [plain] = tokenizeExamples(bytes(false), [example], { maxLength: 4 });
  assertEquals(plain.ids, Int32Array.of(a, a, a + 1, a + 2));
  assertEquals(plain.labels, Int32Array.of(-100, a + 1, a + 2, 1));
  const [endless] = tokenizeExamples(bytes(false, {}), [example]);
  assertEquals(endless.labels, Int32Array.of(-100, a + 1, a + 2, -100));
});

Deno.test("tokenizeExamples() refuses what is too long, empty, or has nothing before the answer", () => {
  const example = { prompt: "aaaa", answer: "b" };
  assertThrows(
    () => tokenizeExamples(bytes(true), [example, example], { maxLength: 5 }),
    RangeError,
    ": its prompt has 5 tokens and its answer 1, but the context holds 5",
  );
  assertThrows(() => tokenizeExamples(bytes(true), []), RangeError, "it is empty");
  assertThrows(
    () => tokenizeExamples(bytes(false), [{ prompt: "", answer: "b" }]),
    RangeError,
    "its prompt is empty",
  );
});

Deno.test("tokenizeText() labels every token and the end", () => {
  const [one, two, none] = tokenizeText(bytes(true), ["ab", "", "c"]);
  assertEquals([one.ids, one.labels], [Int32Array.of(0, a, a + 1), Int32Array.of(a, a + 1, 1)]);
  assertEquals([two.ids, two.labels], [Int32Array.of(0, a + 2), Int32Array.of(a + 2, 1)]);
  assertEquals(none, undefined);
  assertEquals(tokenizeText(bytes(false, {}), "ab")[0].labels, Int32Array.of(a + 1, -100));
  assertThrows(() => tokenizeText(bytes(true), []), RangeError, "it is empty");
  assertThrows(
    () => tokenizeText(bytes(true), ["a", "bb"], { maxLength: 2 }),
    RangeError,
    "text 2: it has 3 tokens, but the context holds 2",
  );
});

Deno.test("tokenStream() puts one text after the other, and one token between where begin is end", () => {
  assertEquals(tokenStream(bytes(true), ["a", "b"]), Int32Array.of(0, a, 1, 0, a + 1, 1));
  assertEquals(
    tokenStream(bytes(true, { eos_token: "<b>" }), ["a", "b"]),
    Int32Array.of(0, a, 0, a + 1, 0),
  );
  assertEquals(tokenStream(bytes(false), ["a", "b"]), Int32Array.of(a, 1, a + 1, 1));
});

Deno.test("the embedded task has its known sizes, disjoint splits and classes that differ in one token", async () => {
  const assets = new URL("../../../assets/", import.meta.url).pathname;
  const tokenizer = await loadTokenizer(`${assets}base`);
  assertEquals([tokenizer.vocabSize, tokenizer.bosId, tokenizer.eosId, tokenizer.padId], [
    2048,
    0,
    0,
    0,
  ]);
  assert(tokenizer.addsBos);
  const lemmas: Set<string>[] = [];
  for (const [split, size] of [["train", 39249], ["validation", 4940], ["test", 4832]] as const) {
    const path = `${assets}wordnet/${split}.jsonl`;
    const rows = await readJsonl(path);
    assertEquals(rows.length, size);
    const answers = new Set(rows.map((row) => row.answer));
    assertEquals([
      answers.size,
      new Set([...answers].map((text) => tokenizer.encode(text)[0])).size,
    ], [8, 8]);
    lemmas.push(
      new Set((await readJsonl(path, { promptField: "lemma" })).map((row) => row.prompt)),
    );
  }
  assert(
    lemmas.every((own, i) => lemmas.every((other, j) => i === j || own.isDisjointFrom(other))),
  );
});
