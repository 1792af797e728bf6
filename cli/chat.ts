/** `nibble chat`: a conversation with a model, in a terminal or piped. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { ChatSession } from "./chat_session.ts";
import { type Command, defineCommand } from "./command.ts";
import { ADAPTER_OPTION, MODEL_OPTIONS, openModel, tokenizerOf } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { clean, paint, printError, printJson, printLine, printText } from "./print.ts";
import { SAMPLING_OPTIONS } from "./sampling_options.ts";

const OPTIONS = z.strictObject({
  ...MODEL_OPTIONS,
  ...ADAPTER_OPTION,
  system: z.string().optional().meta({
    description: "what the system says first; the template's own words without it",
    placeholder: "TEXT",
  }),
  maxNewTokens: z.int().min(1).default(256)
    .describe("the most tokens of an answer; fewer where the model ends it or its context is full"),
  ...SAMPLING_OPTIONS,
  json: jsonSwitch(),
});

/** The lines of stdin, as they come. */
async function* linesOfStdin(): AsyncGenerator<string> {
  let rest = "";
  for await (const part of Deno.stdin.readable.pipeThrough(new TextDecoderStream())) {
    const lines = (rest + part).split(/\r?\n/);
    rest = lines.pop()!;
    yield* lines;
  }
  if (rest !== "") yield rest;
}

async function answer(session: ChatSession, line: string, json: boolean): Promise<number> {
  const { text, tokens } = await session.ask(line, {
    onText: json ? undefined : (piece) => printText(clean(piece)),
    onForget: (questions) =>
      printError(
        `The context is full: forgot the oldest ${
          questions === 1 ? "question and its answer" : `${questions} questions and their answers`
        }`,
      ),
  });
  if (!json && !text.endsWith("\n")) printLine();
  return tokens;
}

async function runChat(options: z.output<typeof OPTIONS>): Promise<void> {
  const { json } = options;
  using device = await openDevice();
  const model = await openModel(device, options);
  const tokenizer = tokenizerOf(model, `chat with "${options.model}"`);
  const session = new ChatSession(model, tokenizer, options);
  const talks = Deno.stdin.isTerminal() && !json;
  if (talks) printError("/reset forgets the conversation, /exit ends it");
  const ask = () => talks && printText(paint("bold", "> "));
  let tokens = 0;
  const start = performance.now();
  ask();
  for await (const line of linesOfStdin()) {
    const said = line.trim();
    if (said === "/exit") break;
    if (said === "/reset") session.reset();
    else if (said !== "") {
      try {
        tokens += await answer(session, line, json);
      } catch (error) {
        // A message that is too long can be shortened by whoever sits there.
        if (!talks || !(error instanceof RangeError)) throw error;
        printError(error.message);
      }
    }
    ask();
  }
  const seconds = (performance.now() - start) / 1000;
  if (json) printJson({ messages: session.messages, tokens, seconds });
}

const chat: Command = defineCommand({
  name: "chat",
  summary: "Talk to a model, with or without an adapter, through its chat template",
  examples: [
    [
      "nibble chat --model ./SmolLM2-135M-Instruct --quantize nf4",
      "a conversation in the terminal: /reset forgets it, /exit ends it",
    ],
    [
      'nibble chat --model ./SmolLM2-135M-Instruct --adapter ./my-adapter --system "Be brief."',
      "with an adapter, and words of the system",
    ],
    [
      "nibble chat --model ./SmolLM2-135M-Instruct --json < questions.txt",
      "a question a line, and the whole conversation for machines",
    ],
  ],
  options: OPTIONS,
  run: runChat,
});
export default chat;
