/** `nibble quantize compare`: what several ways of quantizing cost one model, in one table. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { readText } from "../train/data/dataset.ts";
import { loadModel } from "../train/models/load.ts";
import {
  compareSchemes,
  SCHEME_NAMES,
  type SchemeName,
  type SchemeResult,
} from "../train/eval/compare_schemes.ts";
import { readPolicy } from "../train/quant/policy.ts";
import { loadRanges } from "../train/quant/range_file.ts";
import { type Command, defineCommand } from "./command.ts";
import { embedded } from "./embedded.ts";
import { MODEL_OPTIONS, modelFolder } from "./model_options.ts";
import { jsonSwitch } from "./options.ts";
import { bytes, percent, printJson, printLine, row, significant } from "./print.ts";

const HEAD = [
  "scheme",
  "perplexity",
  "loss change",
  "95 %",
  "bits",
  "size",
  "SQNR dB",
  "same token",
]
  .concat(["KL", "tokens/s"]);
const WIDTHS = [12, -10, -11, -8, -6, -8, -7, -10, -8, -8];

function show(result: SchemeResult): string {
  const { scheme, perplexity, lossChange, lossChangeInterval, bitsPerWeight, sqnr } = result;
  return row([
    scheme,
    perplexity.toFixed(3),
    lossChange.toFixed(4),
    Number.isNaN(lossChangeInterval) ? "" : `±${lossChangeInterval.toFixed(4)}`,
    bitsPerWeight.toFixed(3),
    bytes(result.bytes),
    sqnr === null ? "" : sqnr.toFixed(1),
    percent(result.agreement),
    significant(result.divergence),
    significant(result.tokensPerSecond),
  ], WIDTHS);
}

const OPTIONS = z.strictObject({
  model: MODEL_OPTIONS.model,
  text: z.string().min(1).meta({ description: "the text to measure on", placeholder: "FILE" }),
  window: z.int().min(2).optional()
    .meta({ description: "tokens of a window; 256, or the context if that is less" }),
  schemes: z.array(z.enum(SCHEME_NAMES)).min(1)
    .default(
      [...SCHEME_NAMES].filter((name) =>
        name !== "fp4-dq" && name !== "policy" && !/a8/.test(name)
      ),
    )
    .meta({ description: "which, separated by commas" }),
  policy: z.string().min(1).optional().meta({
    description:
      "a JSON file with rules for layers, as quantize sensitivity writes it: measured too, as the scheme policy",
    placeholder: "FILE",
  }),
  keep: z.number().gt(0).lt(1).default(0.1)
    .meta({ description: "the share of input channels that the scheme split keeps in 16 bits" }),
  calibration: z.string().min(1).optional().meta({
    description:
      "what GPTQ, AWQ, split and static activations look at; by default definitions that come with nibble",
    placeholder: "FILE",
  }),
  calibrationTokens: z.int().min(2).default(8192)
    .meta({ description: "how many tokens of it are read at most" }),
  ranges: z.string().min(1).optional().meta({
    description:
      "what the scheme w8a8-static takes, as quantize calibrate --out wrote it, instead of calibrating",
    placeholder: "FILE",
  }),
  limit: z.int().min(2).optional().meta({ description: "use only so many tokens of the text" }),
  json: jsonSwitch(),
}).refine(({ schemes, policy }) => policy !== undefined || !schemes.includes("policy"), {
  message: "wanted --policy with the scheme policy",
  path: ["schemes"],
});

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
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --schemes f32,int8,w8a8-dynamic,w8a8-static,w8a8-smooth,w4a8",
      "what 8-bit activations cost on top of 8- and 4-bit weights",
    ],
    [
      "nibble quantize compare --model ./SmolLM2-135M --text book.txt --schemes f32,int4 --policy mixed.json",
      "and layers in the schemes that mixed.json gives them",
    ],
  ],
  options: OPTIONS,
  async run(options) {
    const { model: name, text, window, calibration, calibrationTokens, limit, json } = options;
    const policy = options.policy === undefined ? undefined : await readPolicy(options.policy);
    const ranges = options.ranges === undefined ? undefined : await loadRanges(options.ranges);
    const schemes = new Set(options.schemes as SchemeName[]);
    if (policy) schemes.add("policy");
    using device = await openDevice();
    const model = await loadModel(device, await modelFolder(name), {
      dequantize: true,
      weights: "f32",
    });
    const { tokenizer } = model;
    if (!tokenizer) {
      throw new TypeError(
        `Cannot compare schemes on "${name}": it has no tokenizer.json, wanted the model's own tokenizer in its folder`,
      );
    }
    const ids = tokenizer.encode((await readText(text)).text).subarray(0, limit);
    const read = calibration ?? (await embedded()).heldout;
    const own = tokenizer.encode((await readText(read)).text);
    if (!json) printLine(row(HEAD, WIDTHS));
    const results = await compareSchemes(model, ids, {
      window,
      schemes: [...schemes],
      ...{ policy, ranges, keep: options.keep },
      calibration: {
        ids: own.subarray(0, calibrationTokens),
        window,
      },
      onResult: (result) => json || printLine(show(result)),
    });
    if (json) printJson({ model: name, text, window: window ?? 256, tokens: ids.length, results });
  },
});
export default command;
