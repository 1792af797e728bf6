import { toSequences } from "../../../train/data/batches.ts";
import { trainBpe } from "../../../train/data/bpe.ts";
import { tokenizeChat, type TokenizeChatOptions, turnEnd } from "../../../train/data/chat.ts";
import { type ChatMessage, encodeChat, renderChat } from "../../../train/data/chat_template.ts";
import { readJsonl, type Sequence } from "../../../train/data/dataset.ts";
import { loadTokenizer, Tokenizer } from "../../../train/files/tokenizer.ts";
import { assertEquals, assertRejects, assertThrows } from "../../assert.ts";

const GOLDEN = new URL("../../golden/smollm2/", import.meta.url).pathname;
const smol = await loadTokenizer(`${GOLDEN}tokenizer`);
const json = trainBpe(["a::b a::b ::b"], { vocabSize: 262, specialTokens: ["<end>", "<over>"] });

/** Messages of the user and the assistant in turn. */
function talk(...texts: string[]): { messages: ChatMessage[] } {
  const roles = ["user", "assistant"];
  return { messages: texts.map((content, i) => ({ role: roles[i % 2], content })) };
}

function bytes(template: string): Tokenizer {
  return new Tokenizer(json, { config: { "eos_token": "<end>", "chat_template": template } });
}

function one(tokenizer: Tokenizer, texts: string[], options: TokenizeChatOptions = {}): Sequence {
  return tokenizeChat(tokenizer, [talk(...texts)], options)[0];
}

/** What is learnt, token by token in the tokenizer's spelling; a gap between turns is "|". */
function learnt(tokenizer: Tokenizer, { labels }: Sequence): string {
  return Array.from(labels, (id) => id === -100 ? "|" : tokenizer.tokenOf(id)).join("")
    .replaceAll(/\|+/g, "|");
}

Deno.test("tokenizeChat() learns the assistant's words and the end of its turns, in the template's tokens", () => {
  const chat = talk("Hi", "Hello there!", "2 + 2?", " 4,\n\nof course\n", "Thanks");
  const [sequence] = tokenizeChat(smol, [chat]);
  assertEquals(learnt(smol, sequence), "|HelloĠthere!<|im_end|>|Ġ4,ĊĊofĠcourseĊ<|im_end|>");
  // All tokens are those of the whole text; the last label is no input, and the user's thanks are left out.
  const whole = smol.encode(renderChat(smol, chat.messages.slice(0, 4)));
  const length = whole.length - 2; // without the last end of turn, and the line break behind it
  assertEquals([...sequence.ids], [...whole.slice(0, length)]);
  sequence.labels.forEach((label, i) => {
    if (label !== -100) assertEquals(label, whole[i + 1]);
  });
  // Up to each answer the tokens are those that the model is asked with.
  const asked = encodeChat(smol, chat.messages.slice(0, 3));
  assertEquals([...sequence.ids.slice(0, asked.length)], [...asked]);
  assertEquals(sequence.labels[asked.length - 1], smol.encode(" 4")[0]);
});

Deno.test("tokenizeChat() without special tokens between messages, or with tokens over their boundaries", () => {
  const plain = bytes(
    "{% for m in messages %}{{ m.role[0] + ':' + m.content + '\\n' }}{% endfor %}" +
      "{% if add_generation_prompt %}a:{% endif %}",
  );
  // Where nothing special ends a turn, all that the template writes after the answer is learnt.
  const sequence = one(plain, ["x", "yz", "x", "w"]);
  assertEquals(learnt(plain, sequence), "|yzĊ|wĊ");
  // "::" is one token of the whole text, but not of what the model is asked with.
  assertEquals([...plain.encode("a::b")].length < 4, true);
  const over = one(plain, ["x", ":b", "x", "::b"]);
  assertEquals(plain.decode([...over.ids, over.labels.at(-1)!]), "u:x\na::b\nu:x\na:::b\n");
  const asked = encodeChat(plain, talk("x").messages);
  assertEquals([...over.ids.slice(0, asked.length)], [...asked]);
  assertEquals(over.labels[asked.length - 1], plain.encode(":b")[0]);
});

Deno.test("turnEnd() is the token that the template puts after an answer", () => {
  assertEquals(turnEnd(smol), 2);
  const own = bytes("{% for m in messages %}{{ m.content + '<over>\n' }}{% endfor %}");
  assertEquals(turnEnd(own), own.idOf("<over>"));
  assertEquals(turnEnd(bytes("{% for m in messages %}{{ m.content }}{% endfor %}")), null);
});

Deno.test("tokenizeChat() refuses what it cannot learn from", () => {
  const { length } = one(smol, ["Hi", "Hello"]).ids;
  assertEquals(one(smol, ["Hi", "Hello"], { maxLength: length }).ids.length, length);
  const refuses = (run: () => unknown, type: ErrorConstructor, text: string) =>
    assertThrows(run, type, text);
  refuses(
    () => tokenizeChat(smol, [talk("Hi", "Hello"), talk("Hi", "Hello")], { maxLength: length - 1 }),
    RangeError,
    `Cannot use conversation 1, "Hi": it has ${length} tokens, but the context holds ${length - 1}`,
  );
  refuses(() => tokenizeChat(smol, []), RangeError, "it is empty; wanted at least one");
  refuses(() => one(smol, ["Hi"]), RangeError, 'found no message of the role "assistant"');
  refuses(
    () => tokenizeChat(smol, [{ messages: talk("Hi", "Ho").messages.slice(1) }]),
    RangeError,
    "its first message is the assistant's",
  );
  refuses(() => one(bytes("{{ 'x' }}"), ["Hi", "Ho"]), RangeError, "nothing to learn");
  // As Qwen3's, which takes the thoughts out of all answers but the last.
  const rewrites = bytes(
    "{% for m in messages %}{% if m.role == 'assistant' and loop.last %}(hm) {% endif %}{{ m.content }};{% endfor %}",
  );
  assertEquals(learnt(rewrites, one(rewrites, ["Hi", "Ho"])), "|(hm)ĠHo;");
  refuses(
    () => one(rewrites, ["Hi", "Ho", "He", "Ha"]),
    Error,
    'Cannot find the assistant\'s words in conversation 1, "Hi": with 3 messages the template writes "Ho;He;" where it wrote "(hm) Ho;" before',
  );
});

Deno.test("rows with messages are read, and become sequences", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/chat.jsonl`;
    const [first, second] = [talk("Hi", "Hello"), talk("a", "b", "c", "d")];
    const rows = [{ prompt_id: "7", ...first }, { prompt: "a", ...second }];
    const write = (...lines: unknown[]) =>
      Deno.writeTextFile(path, lines.map((line) => JSON.stringify(line)).join("\n"));
    await write(...rows);
    const dataset = await readJsonl(path, { chat: true });
    assertEquals<unknown>(dataset, [first, second]);
    assertEquals(toSequences(dataset, smol, 100), tokenizeChat(smol, [first, second]));
    await assertRejects(() => readJsonl(path), TypeError, "line 1 of");
    const example = { prompt: "p", answer: "a" };
    const fails = async (lines: unknown[], text: string) => {
      await write(...lines);
      await assertRejects(() => readJsonl(path, { chat: true }), Error, text);
    };
    await fails([first, example], "it is no conversation, but the lines before it are conversat");
    await fails([example, first], "it is a conversation, but the lines before it are prompts");
    await fails([first, { messages: [] }], "it has no messages, wanted at least one");
    await fails([{ messages: [{ role: "user", content: null }] }], 'the "content" of message 1');
    await write({ ...example, messages: 7 });
    assertEquals<unknown>(await readJsonl(path, { chat: true }), [example]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
