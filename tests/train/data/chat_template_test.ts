import { trainBpe } from "../../../train/data/bpe.ts";
import { type ChatMessage, encodeChat, renderChat } from "../../../train/data/chat_template.ts";
import {
  type Json,
  loadTokenizer,
  saveTokenizer,
  Tokenizer,
} from "../../../train/files/tokenizer.ts";
import { assertEquals, assertRejects, assertThrows } from "../../assert.ts";

const GOLDEN = new URL("../../golden/smollm2/", import.meta.url).pathname;
const smol = await loadTokenizer(`${GOLDEN}tokenizer`);

const json = trainBpe([], { vocabSize: 258, specialTokens: ["<end>", "<begin>"] });
const HI: ChatMessage[] = [{ role: "user", content: "Hi" }];

/** A tokenizer of bytes with this template. */
function withTemplate(template: unknown, more: Json = {}): Tokenizer {
  return new Tokenizer(json, {
    config: { "eos_token": "<end>", "chat_template": template, ...more },
  });
}

Deno.test("SmolLM2's tokenizer.json: the tokens of 60 awkward strings, and back", async () => {
  const cases: { text: string; ids: number[]; decoded: string }[] = JSON.parse(
    await Deno.readTextFile(`${GOLDEN}tokenizer_cases.json`),
  );
  assertEquals(cases.length, 60);
  for (const { text, ids, decoded } of cases) {
    assertEquals([...smol.encode(text)], ids, text);
    // Special tokens are left out when ids are decoded.
    assertEquals(smol.decode(ids), decoded.replaceAll(/<\|\w+\|>/g, ""), text);
  }
  assertEquals([smol.isSpecial(2), smol.isSpecial(9690)], [true, false]);
});

Deno.test("renderChat() writes what transformers writes", async () => {
  const cases: { rendered: string; ids: number[] }[] = JSON.parse(
    await Deno.readTextFile(`${GOLDEN}greedy.json`),
  );
  for (const { rendered, ids } of cases) {
    const content = /<\|im_start\|>user\n(.*)<\|im_end\|>/s.exec(rendered)![1];
    const messages = [{ role: "user", content }];
    assertEquals(renderChat(smol, messages, { addGenerationPrompt: true }), rendered);
    assertEquals([...encodeChat(smol, messages)], ids);
  }
  const system = [{ role: "system", content: "Be brief." }, ...HI];
  assertEquals(
    renderChat(smol, system),
    "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\nHi<|im_end|>\n",
  );
});

Deno.test("templates see what transformers gives them", () => {
  const render = (template: string, options = {}) =>
    renderChat(withTemplate(template, { "bos_token": { content: "<begin>" } }), HI, options);
  assertEquals(render("{{ bos_token }}|{{ eos_token }}|{{ pad_token }}"), "<begin>|<end>|");
  assertEquals(render("{{ messages | tojson }}"), '[{"role": "user", "content": "Hi"}]');
  assertEquals(render("{{ tools is none }}{{ documents is none }}"), "truetrue");
  assertEquals(render("{{ tools | tojson }}", { tools: [{ a: 1 }] }), '[{"a": 1}]');
  assertEquals(render("{{ mood }}", { variables: { mood: "good" } }), "good");
  assertEquals(render("{{ strftime_now('%Y') }}"), String(new Date().getFullYear()));
  // Lines of blocks alone vanish, and so does the line break at the end.
  assertEquals(render("{% if true %}\n  {% if true %}\nx\n  {% endif %}\n{% endif %}\n"), "x\n");
});

Deno.test("renderChat() takes one of several templates, by name, by tools, or a text", () => {
  const several = withTemplate([
    { name: "default", template: "plain{{ 1 }}" },
    { name: "tool_use", template: "tools{{ 1 }}" },
  ]);
  const render = (options = {}) => renderChat(several, HI, options);
  assertEquals([render(), render({ tools: [] })], ["plain1", "tools1"]);
  assertEquals(render({ template: "tool_use" }), "tools1");
  assertEquals(render({ template: "own {{ messages[0].content }}" }), "own Hi");
  assertThrows(
    () => render({ template: "rag" }),
    RangeError,
    'found no template "rag", wanted one of "default", "tool_use"',
  );
});

Deno.test("chat_template.jinja beside the tokenizer is kept, and goes before tokenizer_config.json", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await saveTokenizer(withTemplate("old{{ 1 }}"), folder);
    assertEquals(renderChat(await loadTokenizer(folder), HI), "old1");
    await Deno.writeTextFile(`${folder}/chat_template.jinja`, "new{{ 1 }}");
    const loaded = await loadTokenizer(folder);
    assertEquals(renderChat(loaded, HI), "new1");
    await Deno.mkdir(`${folder}/copy`);
    await saveTokenizer(loaded, `${folder}/copy`);
    assertEquals(renderChat(await loadTokenizer(`${folder}/copy`), HI), "new1");
    await Deno.remove(`${folder}/chat_template.jinja`);
    await Deno.mkdir(`${folder}/chat_template.jinja`);
    await assertRejects(() => loadTokenizer(folder), Error, "it is a folder, wanted a file");
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("renderChat() says what is wrong with the template or the messages", () => {
  const fails = (template: unknown, type: ErrorConstructor, text: string) =>
    assertThrows(() => renderChat(withTemplate(template), HI), type, text);
  fails(undefined, TypeError, "the tokenizer has no chat template; wanted an instruct model's");
  fails([{ name: 1 }], TypeError, 'found {"name":1} in "chat_template", wanted a text, or a list');
  fails("{% if %}", SyntaxError, "Cannot read the chat template: Unexpected token");
  fails("{{ nope() }}", Error, 'the template stops with "Cannot call something that is not');
  fails(
    "{{ raise_exception('Roles must alternate') }}",
    Error,
    'the template stops with "Roles must alternate" at messages of user; wanted messages in',
  );
  const refuses = (messages: unknown, type: ErrorConstructor, text: string) =>
    assertThrows(() => renderChat(smol, messages as ChatMessage[]), type, text);
  refuses([], RangeError, "Cannot use the chat: it has no messages");
  refuses("Hi", TypeError, 'its messages are "Hi", wanted a list such as');
  refuses([...HI, { role: "user" }], TypeError, 'the "content" of message 2 is undefined, wanted');
  refuses([null], TypeError, 'the "role" of message 1 is undefined, wanted a text');
});
