import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { ChatSession } from "../../cli/chat_session.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "../assert.ts";
import { device } from "../device.ts";
import { nibble, nibbleFed } from "./spawn.ts";

const folder = await Deno.makeTempDir();
const path = `${folder}/model`;
const TEMPLATE = "{% for m in messages %}{{ m.role[0] + ':' + m.content + '<over>' }}{% endfor %}" +
  "{% if add_generation_prompt %}a:{% endif %}";

function tokenizer(template?: string): Tokenizer {
  const json = trainBpe([], { vocabSize: 258, specialTokens: ["<end>", "<over>"] });
  return new Tokenizer(json, { config: { "eos_token": "<end>", "chat_template": template } });
}

const model = randomModel(device, {
  model_type: "llama",
  vocab_size: 258,
  hidden_size: 16,
  intermediate_size: 32,
  num_hidden_layers: 1,
  num_attention_heads: 2,
  max_position_embeddings: 96,
  initializer_range: 0.5,
}, { seed: 1 });
model.tokenizer = tokenizer(TEMPLATE);
await saveModel(model, path);
globalThis.addEventListener("unload", () => Deno.removeSync(folder, { recursive: true }));

Deno.test("nibble chat answers a line at a time, and knows what was said", async () => {
  const args = ["chat", "--model", path, "--max-new-tokens", "4", "--json"];
  const { code, stdout, stderr } = await nibbleFed("Hi\r\n\nHo\n", ...args, "--system", "s");
  assertEquals(code, 0, stderr);
  const { messages, tokens } = JSON.parse(stdout);
  assertEquals(messages.map(({ role }: { role: string }) => role), [
    "system",
    "user",
    "assistant",
    "user",
    "assistant",
  ]);
  assertEquals([messages[0].content, messages[1].content, messages[3].content], ["s", "Hi", "Ho"]);
  assert(tokens > 0 && tokens <= 8);
  // Piped and streamed, the same answers; after /reset the first is the first again, and /exit ends.
  const plain = await nibbleFed(
    "Hi\n/reset\nHi\n/exit\nHi\n",
    ...args.filter((arg) => arg !== "--json"),
  );
  assertEquals([plain.code, plain.stderr], [0, ""]);
  const half = plain.stdout.slice(0, plain.stdout.length / 2);
  assertEquals(plain.stdout, half + half);
  assert(!/[^\P{Cc}\n\t]/u.test(plain.stdout), "control characters reach the terminal");
});

Deno.test("a chat forgets the oldest turns where the context is full", async () => {
  const session = new ChatSession(model, model.tokenizer!, { maxNewTokens: 20 });
  const forgotten: number[] = [];
  for (let i = 0; i < 5; i++) {
    const question = `${i}${"x".repeat(25)}`;
    let told = "";
    const { text } = await session.ask(question, {
      onText: (piece) => told += piece,
      onForget: (questions) => forgotten.push(questions),
    });
    assertEquals(told, text);
    assertEquals(session.messages.at(-2), { role: "user", content: question });
  }
  assert(forgotten.length > 0 && forgotten.every((count) => count > 0), `${forgotten}`);
  assertEquals(
    session.messages.length,
    2 * (5 - forgotten.reduce((sum, count) => sum + count, 0)),
  );
  const before = session.messages;
  await assertRejects(
    () => session.ask("x".repeat(96)),
    RangeError,
    "Cannot answer: the message has 101 tokens with the template's own, but the model's context holds 96",
  );
  assertEquals(session.messages, before);
});

Deno.test("nibble generate --chat asks through the template", async () => {
  const args = ["--model", path, "--max-new-tokens", "4", "--json"];
  const answer = async (...more: string[]) => {
    const { code, stdout, stderr } = await nibble("generate", ...args, ...more);
    assertEquals(code, 0, stderr);
    return JSON.parse(stdout).results[0];
  };
  const chat = await answer("--chat", "Hi");
  assertEquals(chat.prompt, "Hi");
  assertEquals(chat.text, (await answer("u:Hi<over>a:")).text);
});

Deno.test("nibble chat says what is wrong, once", async () => {
  model.tokenizer = tokenizer();
  await saveModel(model, `${folder}/base`);
  const fails = async (args: string[], pattern: RegExp) => {
    const { code, stdout, stderr } = await nibbleFed("x".repeat(99), ...args);
    assertEquals([code, stdout], [1, ""], stderr);
    assertMatch(stderr, pattern);
    assertEquals(stderr.match(/error:/g)?.length, 1);
  };
  await fails(["chat", "--model", `${folder}/base`], /the tokenizer has no chat template; wanted/);
  await fails(["generate", "--chat", "Hi", "--model", `${folder}/base`], /no chat template/);
  await fails(["chat", "--model", path], /Cannot answer: the message has 104 tokens/);
  await fails(["chat", "--model", `${folder}/none`], /there is no such file/);
});
