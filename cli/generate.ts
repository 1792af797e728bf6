/** `nibble generate`: what a model goes on with after a text. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { answerText, generateTokens, promptTokens } from "../train/eval/generate.ts";
import { type Command, defineCommand } from "./command.ts";
import { ADAPTER_OPTION, MODEL_OPTIONS, openModel } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { duration, paint, printError, printJson, printLine, significant } from "./print.ts";
import { progress } from "./progress.ts";
import { readPrompts } from "./prompts.ts";

const GROUP = "Sampling";

/** A model may write any character; control characters other than line breaks and tabs would move the terminal's cursor. */
function clean(text: string): string {
  return text.replace(/[^\P{Cc}\n\t]/gu, "\u{fffd}");
}

const generate: Command = defineCommand({
  name: "generate",
  summary: "Let a model, with or without an adapter, go on from prompts",
  examples: [
    ['nibble generate "What is gravity?" --model ./SmolLM2-135M', "the likeliest answer"],
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
    ...MODEL_OPTIONS,
    ...ADAPTER_OPTION,
    maxNewTokens: z.int().min(1).default(64)
      .describe(
        "the most tokens of an answer; fewer where the model ends it or its context is full",
      ),
    batchSize: z.int().min(1).default(32).describe("prompts that the model sees at a time"),
    temperature: z.number().min(0).default(0)
      .meta({
        description: "0 takes the likeliest token, 1 draws as the model says",
        group: GROUP,
      }),
    topK: z.int().min(0).default(0)
      .meta({ description: "draw from the K likeliest tokens only; 0 for all", group: GROUP }),
    topP: z.number().gt(0).max(1).default(1).meta({
      description: "draw from the fewest tokens with this probability together",
      group: GROUP,
    }),
    seed: z.int().default(0)
      .meta({ description: "where random numbers begin: same seed, same text", group: GROUP }),
    json: jsonSwitch(),
  }).refine(({ prompt, prompts }) => prompt.length > 0 || prompts !== undefined, {
    error: "there is nothing to go on from; wanted a PROMPT, or --prompts FILE",
  }),
  async run(options) {
    const { json, maxNewTokens, temperature, topK, topP, seed, batchSize } = options;
    const fromFile = options.prompts === undefined
      ? []
      : await readPrompts(options.prompts, options.promptField);
    const prompts = [...options.prompt, ...fromFile];
    using device = await openDevice();
    const model = await openModel(device, options);
    const { tokenizer } = model;
    if (!tokenizer) {
      throw new Error(
        `Cannot generate text: there is no tokenizer.json in "${options.model}"; put the model's own there`,
      );
    }
    const ids = prompts.map((prompt) => promptTokens(tokenizer, prompt));
    const start = performance.now();
    const settings = { maxNewTokens, temperature, topK, topP, seed, batchSize };
    const answers = await (async () => {
      if (prompts.length <= batchSize) return await generateTokens(model, ids, settings);
      // On stderr: stdout is for the answers.
      using bar = progress({ total: prompts.length, label: "Generating", json: true });
      const onProgress = (answered: number) => bar.update(answered);
      return await generateTokens(model, ids, { ...settings, onProgress });
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
      printLine(paint("bold", clean(prompt)) + clean(text));
    });
    printError(
      `${tokens} tokens in ${duration(seconds)}, ${significant(tokensPerSecond)} tokens/s`,
    );
  },
});
export default generate;
