/** `nibble quantize compare`: what several ways of quantizing cost one model, in one table. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { nearest } from "../core/nearest.ts";
import { toSequences } from "../train/data/batches.ts";
import { readJsonl, readText } from "../train/data/dataset.ts";
import { defaultWindow } from "../train/data/windows.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { compareSchemes } from "../train/eval/compare_schemes.ts";
import { looksAtText, SCHEME_NAMES } from "../train/eval/named_schemes.ts";
import { readPolicy } from "../train/quant/policy.ts";
import { loadRanges } from "../train/quant/range_file.ts";
import { type Command, defineCommand } from "./command.ts";
import { embedded } from "./embedded.ts";
import { MODEL_OPTIONS, openPlain, tokenizerOf } from "./model_options.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonSwitch, textList } from "./options.ts";
import { CALIBRATION_TOKENS, KEEP } from "./quantize_method.ts";
import { printError, printJson, printLine } from "./print.ts";
import { bars, errorTable, SchemeRows } from "./quantize_compare_tables.ts";
import { isSchemeName } from "./scheme_option.ts";

/** What is easily overlooked where all layers have one scheme of few bits. */
const ALIKE =
  "All layers have the same bits here, though they do not lose the same: nibble quantize sensitivity finds a better mix, " +
  "and --policy measures it";

/** The schemes that look at the text of `--calibration`. */
function usersOf(
  { schemes, ranges }: { readonly schemes: readonly string[]; readonly ranges?: string },
): string[] {
  return schemes.filter((name) => looksAtText(name, ranges !== undefined));
}

/** The tokens that schemes are calibrated on, and what is to be said of them. */
async function calibrationOf(
  model: LanguageModel,
  ids: Int32Array,
  options: CompareChoice,
): Promise<{ ids: Int32Array; warnings: string[] }> {
  const { text, calibration, calibrationTokens } = options;
  const path = calibration ?? (await embedded()).heldout;
  const own = model.tokenizer!.encode((await readText(path)).text);
  const isSame = await Deno.realPath(path) === await Deno.realPath(text);
  // Of the text that is measured, what follows.
  const rest = isSame && own.length - ids.length >= Math.min(calibrationTokens, ids.length);
  const warnings: string[] = [];
  const users = usersOf(options);
  if (users.length > 0 && calibration === undefined) {
    warnings.push(
      `${
        users.join(", ")
      } looked at definitions that come with nibble: pass --calibration, a text like those that the ` +
        "model will read",
    );
  }
  if (users.length > 0 && isSame && !rest) {
    warnings.push(
      `${
        users.join(", ")
      } looked at the text that is measured, and will do worse on others: pass another --calibration`,
    );
  }
  const from = rest ? ids.length : 0;
  return { ids: own.subarray(from, from + calibrationTokens), warnings };
}

const NAMES: readonly string[] = SCHEME_NAMES;

const OPTIONS = z.strictObject({
  model: MODEL_OPTIONS.model,
  text: z.string().min(1).meta({ description: "the text to measure on", placeholder: "FILE" }),
  window: z.int().min(2).optional()
    .meta({ description: "tokens of a window; 256, or the model's context if that is less" }),
  schemes: textList()
    .default(
      [...SCHEME_NAMES].filter((name) =>
        name !== "fp4-dq" && name !== "policy" && !/a8|int[32]/.test(name)
      ),
    )
    .meta({
      description:
        `which, separated by commas: some of ${SCHEME_NAMES.join(", ")}, or as policies ` +
        "name them, int4-g32, int8-asym-tensor, int4+10%; int4 is W4A16, f32 inputs on 4-bit weights",
    }),
  policy: z.string().min(1).optional().meta({
    description:
      "a JSON file with rules for layers, as quantize sensitivity writes it: measured too, as the scheme policy",
    placeholder: "FILE",
  }),
  keep: z.number().gt(0).lt(1).default(KEEP).meta({
    description: "the share of input channels that the scheme split keeps in 16 bits",
  }),
  calibration: z.string().min(1).optional().meta({
    description:
      "what GPTQ, AWQ, split and static activations look at; by default definitions that come with nibble",
    placeholder: "FILE",
  }),
  calibrationTokens: z.int().min(2).default(CALIBRATION_TOKENS)
    .meta({ description: "how many tokens of it are read at most" }),
  ranges: z.string().min(1).optional().meta({
    description:
      "what the scheme w8a8-static takes, as quantize calibrate --out wrote it, instead of calibrating",
    placeholder: "FILE",
  }),
  limit: z.int().min(2).optional().meta({ description: "use only so many tokens of the text" }),
  data: z.string().min(1).optional().meta({
    description:
      "JSONL, a prompt and an answer a line, or a chat's messages: count exact answers too",
    placeholder: "FILE",
  }),
  examples: z.int().min(1).optional()
    .meta({ description: "with --data: use only so many of them, the first ones" }),
  json: jsonSwitch(),
});

type CompareChoice = z.output<typeof OPTIONS>;

function checkChoice(choice: CompareChoice, check: OptionCheck<keyof CompareChoice>): void {
  const { schemes, policy, data } = choice;
  const wrong = schemes.find((name) => !NAMES.includes(name) && !isSchemeName(name));
  if (wrong !== undefined) {
    const near = nearest(wrong, NAMES);
    check.refuse(
      "schemes",
      `found "${wrong}", wanted some of ${SCHEME_NAMES.join(", ")}, or names such as ` +
        `int4-g32 or int8-asym-tensor${near === null ? "" : `; did you mean ${near}?`}`,
    );
  }
  if (!schemes.includes("split")) check.refuseSaid(["keep"], "wanted the scheme split with it");
  if (!schemes.includes("w8a8-static")) {
    const message = "wanted the scheme w8a8-static with it, the only one that takes ranges";
    check.refuseSaid(["ranges"], message);
  }
  if (usersOf(choice).length === 0) {
    check.refuseSaid(
      ["calibration", "calibrationTokens"],
      "none of the schemes looks at a text: leave it out, or add one that does, such as gptq, awq, split",
    );
  }
  if (data === undefined) check.refuseSaid(["examples"], "wanted --data with it");
  if (policy === undefined && schemes.includes("policy")) {
    check.refuse("schemes", "wanted --policy with the scheme policy");
  }
}

const command: Command = defineCommand({
  name: "quantize compare",
  summary: "Measure a model in several schemes on one text: perplexity, size, errors, speed",
  examples: [
    [
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --schemes f32,int8,int4,nf4",
      "which of these loses least",
    ],
    [
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --calibration notes.txt --json",
      "all schemes, for machines; GPTQ and AWQ look at notes.txt",
    ],
    [
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --schemes f32,int8,w8a8-dynamic,w8a8-static,w8a8-smooth,w8a8-rotated,w4a8,w4a8-rotated",
      "what 8-bit activations cost on top of 8- and 4-bit weights",
    ],
    [
      "nibble quantize compare --model ./my-merged-model --text book.txt --schemes f32,int8,nf4 --data test.jsonl",
      "and how many answers each gets right",
    ],
    [
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --schemes f32,int4 --policy mixed.json",
      "and layers in the schemes that mixed.json gives them",
    ],
  ],
  options: OPTIONS,
  check: checkChoice,
  async run(options) {
    const { model: name, text, limit, json } = options;
    const policy = options.policy === undefined ? undefined : await readPolicy(options.policy);
    const ranges = options.ranges === undefined ? undefined : await loadRanges(options.ranges);
    const schemes = new Set(options.schemes);
    if (policy) schemes.add("policy");
    using device = await openDevice();
    const model = await openPlain(device, name);
    const tokenizer = tokenizerOf(model, `compare schemes on "${name}"`);
    const window = options.window ?? defaultWindow(model.config, "compare");
    const ids = tokenizer.encode((await readText(text)).text).subarray(0, limit);
    const { ids: calibrationIds, warnings } = await calibrationOf(model, ids, options);
    const examples = options.data === undefined ? undefined : toSequences(
      (await readJsonl(options.data, { chat: true })).slice(0, options.examples),
      tokenizer,
      model.config.contextLength,
    );
    const rows = new SchemeRows(schemes, model.weightBytes);
    let shown = 0;
    const results = await compareSchemes(model, ids, {
      ...{ window, schemes: [...schemes], policy, ranges, keep: options.keep, examples },
      calibration: { ids: calibrationIds, window },
      onResult: (result) => {
        if (json) return;
        if (shown++ === 0) printLine(rows.head);
        printLine(rows.of(result));
      },
    });
    if (json) {
      return printJson({ model: name, text, window, tokens: ids.length, warnings, results });
    }
    printLine(`\n${errorTable(results)}\n`);
    for (const line of bars(results)) printLine(line);
    const even = results.filter((own) => own.scheme !== "policy" && own.bitsPerWeight < 8);
    if (even.length > 0 && !policy) printLine(ALIKE);
    for (const warning of warnings) printError(`Warning: ${warning}`);
  },
});
export default command;
