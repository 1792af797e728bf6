/** `nibble eval`: perplexity on a text, or accuracy on examples. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { toSequences } from "../train/data/batches.ts";
import { readJsonl, readText } from "../train/data/dataset.ts";
import { defaultWindow } from "../train/data/windows.ts";
import { evaluateAccuracy } from "../train/eval/accuracy.ts";
import { evaluatePerplexity } from "../train/eval/perplexity.ts";
import type { Tokenizer } from "../train/files/tokenizer.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { type Command, defineCommand } from "./command.ts";
import { FIELD_OPTIONS } from "./field_options.ts";
import { LateBar } from "./late_bar.ts";
import { ADAPTER_OPTION, MODEL_OPTIONS, openModel, tokenizerOf } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { grouped, percent, printJson, printLine } from "./print.ts";

const DATA = "Data";

const OPTIONS = z.strictObject({
  ...MODEL_OPTIONS,
  ...ADAPTER_OPTION,
  text: z.string().min(1).optional().meta({
    description: "measure the perplexity of this text",
    placeholder: "FILE",
    group: DATA,
  }),
  window: z.int().min(2).optional().meta({
    description: "tokens of a window (with --text); 1024, or the model's context if that is less",
    group: DATA,
  }),
  data: z.string().min(1).optional().meta({
    description:
      "measure the accuracy on this JSONL, a prompt and an answer a line, or a chat's messages",
    placeholder: "FILE",
    group: DATA,
  }),
  ...FIELD_OPTIONS,
  limit: z.int().min(1).optional().meta({
    description: "use only so many examples (with --text: tokens), the first ones",
    group: DATA,
  }),
  json: jsonSwitch(),
});

type EvalChoice = z.output<typeof OPTIONS>;

async function measureText(
  model: LanguageModel,
  tokenizer: Tokenizer,
  { text, window = defaultWindow(model.config, "read"), limit, json }: EvalChoice,
): Promise<void> {
  const ids = tokenizer.encode((await readText(text!)).text).subarray(0, limit);
  using bar = new LateBar({ label: "Evaluating tokens", json });
  const result = await evaluatePerplexity(model, ids, { window, onProgress: bar.update });
  bar.stop();
  if (json) return printJson(result);
  const { nll, tokens, perplexity } = result;
  printLine(
    `Perplexity ${perplexity.toFixed(2)}: ${(nll / tokens).toFixed(4)} nats per token over ${
      grouped(tokens)
    } tokens, in windows of ${window}`,
  );
}

async function measureData(
  model: LanguageModel,
  tokenizer: Tokenizer,
  { data, promptField, answerField, limit, json }: EvalChoice,
): Promise<void> {
  const examples = await readJsonl(data!, { promptField, answerField, chat: true });
  const { contextLength: maxLength } = model.config;
  const sequences = toSequences(examples.slice(0, limit), tokenizer, maxLength);
  using bar = new LateBar({ label: "Evaluating tokens", json });
  const result = await evaluateAccuracy(model, sequences, { onProgress: bar.update });
  bar.stop();
  const { accuracy, correct, total, nll, tokens } = result;
  if (json) return printJson({ accuracy, correct, total, nll, tokens });
  printLine(
    `Accuracy ${percent(accuracy)}: ${grouped(correct)} of ${grouped(total)} answers are exact. ` +
      `${(nll / tokens).toFixed(4)} nats per token over ${grouped(tokens)} answer tokens`,
  );
}

const evaluate: Command = defineCommand({
  name: "eval",
  summary: "Measure a model's perplexity on a text, or its accuracy on examples",
  examples: [
    [
      "nibble eval --model ./SmolLM2-135M --quantize nf4 --text heldout.txt --window 256",
      "what 4 bits cost in perplexity",
    ],
    [
      "nibble eval --model ./SmolLM2-135M --adapter ./my-adapter --data test.jsonl --json",
      "how many answers are right, for machines",
    ],
  ],
  options: OPTIONS,
  check({ text, data }, check) {
    if ((text === undefined) === (data === undefined)) {
      const found = text === undefined ? "neither" : "both";
      return check.fault(`found ${found} of --text and --data, wanted one of them`);
    }
    if (data !== undefined && check.said("window")) {
      check.fault("--window cuts a text into windows; leave it out with --data");
    }
    if (text !== undefined && check.firstSaid(["promptField", "answerField"])) {
      check.fault(
        "--prompt-field and --answer-field name keys of --data; leave them out with --text",
      );
    }
  },
  async run(options) {
    using device = await openDevice();
    const model = await openModel(device, options);
    const tokenizer = tokenizerOf(model, `evaluate "${options.model}"`);
    const measure = options.text === undefined ? measureData : measureText;
    await measure(model, tokenizer, options);
  },
});
export default evaluate;
