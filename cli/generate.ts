/** `nibble generate`: what a model goes on with after a text. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { encodeChat } from "../train/data/chat_template.ts";
import { answerText, generateTokens, promptTokens } from "../train/eval/generate.ts";
import type { Tokenizer } from "../train/files/tokenizer.ts";
import { chatEnds } from "./chat_session.ts";
import { type Command, defineCommand } from "./command.ts";
import { ADAPTER_OPTION, MODEL_OPTIONS, openModel, tokenizerOf } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { clean, duration, paint, printError, printJson, printLine, significant } from "./print.ts";
import { progress } from "./progress.ts";
import { readPrompts } from "./prompts.ts";
import { SAMPLING_OPTIONS } from "./sampling_options.ts";

/** The tokens of a prompt, as it stands or as what a user says in a chat. */
function tokensOf(tokenizer: Tokenizer, prompt: string, chat: boolean): Int32Array<ArrayBuffer> {
  return chat
    ? encodeChat(tokenizer, [{ role: "user", content: prompt }])
    : promptTokens(tokenizer, prompt);
}

const generate: Command = defineCommand({
  name: "generate",
  summary: "Let a model, with or without an adapter, go on from prompts",
  examples: [
    ['nibble generate "What is gravity?" --model ./SmolLM2-135M', "the likeliest answer"],
    [
      'nibble generate --chat "What is gravity?" --model ./SmolLM2-135M-Instruct',
      "the answer of a model that was trained to chat",
    ],
    [
      'nibble generate "Once" --model ./SmolLM2-135M --temperature 0.8 --top-p 0.9 --seed 7',
      "one of many",
    ],
    [
      "nibble generate --prompts test.jsonl --model ./SmolLM2-135M --adapter ./my-adapter --json",
      "the answers to a file of prompts, for machines",
    ],
  ],
  positionals: ["prompt"],
  options: z.strictObject({
    prompt: z.array(z.string()).default([])
      .meta({ description: "the texts to go on from", placeholder: "PROMPT" }),
    prompts: z.string().min(1).optional().meta({
      description: "more of them, from a file: one a line, or JSONL",
      placeholder: "FILE",
    }),
    promptField: z.string().min(1).optional()
      .meta({ description: "the field of a JSONL file that holds the prompt; prompt" }),
    chat: z.boolean().default(false).meta({
      description: "ask through the model's chat template, each prompt as a user's message",
    }),
    ...MODEL_OPTIONS,
    ...ADAPTER_OPTION,
    maxNewTokens: z.int().min(1).default(64)
      .describe(
        "the most tokens of an answer; fewer where the model ends it or its context is full",
      ),
    batchSize: z.int().min(1).default(32).describe("prompts that the model sees at a time"),
    ...SAMPLING_OPTIONS,
    json: jsonSwitch(),
  }),
  check({ prompt, prompts }, check) {
    if (prompt.length > 0 || prompts !== undefined) return;
    check.fault("there is nothing to go on from; wanted a PROMPT, or --prompts FILE");
  },
  async run(options) {
    const { json, maxNewTokens, temperature, topK, topP, seed, batchSize, chat } = options;
    const fromFile = options.prompts === undefined
      ? []
      : await readPrompts(options.prompts, options.promptField);
    const prompts = [...options.prompt, ...fromFile];
    using device = await openDevice();
    const model = await openModel(device, options);
    const tokenizer = tokenizerOf(model, `generate text with "${options.model}"`);
    const ids = prompts.map((prompt) => tokensOf(tokenizer, prompt, chat));
    const start = performance.now();
    const settings = { maxNewTokens, temperature, topK, topP, seed, batchSize };
    const endTokens = chat ? chatEnds(model, tokenizer) : undefined;
    const answers = await (async () => {
      if (prompts.length <= batchSize) {
        return await generateTokens(model, ids, { ...settings, endTokens });
      }
      // On stderr: stdout is for the answers.
      using bar = progress({ total: prompts.length, label: "Generating", json: true });
      const onProgress = (answered: number) => bar.update(answered);
      return await generateTokens(model, ids, { ...settings, endTokens, onProgress });
    })();
    const seconds = (performance.now() - start) / 1000;
    const results = prompts.map((prompt, i) => ({
      prompt,
      text: answerText(tokenizer, ids[i], answers[i]),
      tokens: answers[i].length,
    }));
    const tokens = results.reduce((sum, result) => sum + result.tokens, 0);
    const tokensPerSecond = tokens / seconds;
    if (json) return printJson({ results, tokens, seconds, tokensPerSecond, ...settings });
    results.forEach(({ prompt, text }, i) => {
      if (i > 0) printLine();
      printLine(paint("bold", clean(prompt)) + (chat ? "\n" : "") + clean(text));
    });
    printError(
      `${tokens} tokens in ${duration(seconds)}, ${significant(tokensPerSecond)} tokens/s`,
    );
  },
});
export default generate;
