/** `nibble quantize sensitivity`: which layers suffer from few bits, and how many each should get. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import { readText } from "../train/data/dataset.ts";
import {
  chooseBits,
  measurePolicies,
  measureSensitivity,
  type Sensitivity,
  type Shift,
} from "../train/eval/sensitivity.ts";
import type { Tokenizer } from "../train/files/tokenizer.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import type { Chosen } from "../train/quant/choose_bits.ts";
import { parseScheme, savePolicy } from "../train/quant/policy.ts";
import { schemeBytes } from "../train/quant/scheme_size.ts";
import { type Command, defineCommand } from "./command.ts";
import { MODEL_OPTIONS, openPlain, tokenizerOf } from "./model_options.ts";
import { checkOutFile } from "./out_folder.ts";
import { jsonSwitch, textList } from "./options.ts";
import { bytes, count, curve, printJson, printLine, significant, table } from "./print.ts";
import { isSchemeName, readMemory } from "./scheme_option.ts";
import { progress } from "./progress.ts";

/** Bits a weight, or bytes of the linear layers: `5`, `5bits`, `60MB`. */
function readBudget(text: string): { bits: number } | { bytes: number } | null {
  const [, digits] = /^(\d+(?:\.\d+)?)\s*(bits?)?$/.exec(text) ?? [];
  if (Number(digits) > 0) return { bits: Number(digits) };
  const size = readMemory(text);
  return size === null ? null : { bytes: size };
}

const OPTIONS = z.strictObject({
  model: MODEL_OPTIONS.model,
  text: z.string().min(1).meta({ description: "the text to measure on", placeholder: "FILE" }),
  budget: z.string().min(1).default("5bits").meta({
    description: "bits a weight of the linear layers, scales included, or their bytes as 60MB",
    placeholder: "SIZE",
  }),
  schemes: textList().default(["int8", "int4-g32", "int4", "int4-g128", "nf4-dq"]).meta({
    description:
      "what layers may get: f32, int8, int4, int3, int2, hqq, nf4, nf4-dq, fp4, also as int4-g32",
  }),
  group: z.enum(["layer", "block", "type"]).default("layer")
    .meta({ description: "what is quantized together, and gets one scheme" }),
  others: z.boolean().default(false).meta({
    description:
      "measure the embedding and the output layer too; they stay as they are, whatever comes out",
  }),
  method: z.enum(["exact", "greedy"]).default("exact")
    .meta({ description: "how to choose: the best there is, or step by step" }),
  measure: z.enum(["divergence", "loss"]).default("divergence")
    .meta({ description: "what shall be least: KL divergence, or the noisier change of the loss" }),
  window: z.int().min(2).optional()
    .meta({ description: "tokens of a window; 256, or the model's context if that is less" }),
  places: z.int().min(1).default(512)
    .meta({ description: "places of the text at which predictions are compared" }),
  limit: z.int().min(2).default(4096).meta({ description: "tokens of the text at most" }),
  check: z.string().min(1).optional().meta({
    description: "another text, on which the choice is compared with all layers in one scheme; " +
      "rest for what follows in the same one, four times as much",
    placeholder: "FILE",
  }),
  out: z.string().min(1).optional().meta({
    description: "where to write the choice, for quantize compare --policy and quantizeByPolicy",
    placeholder: "FILE",
  }),
  json: jsonSwitch(),
});

type SensitivityChoice = z.output<typeof OPTIONS>;

/** Throws if no choice can be within the budget, before minutes of work, and not behind it. */
function checkBudget(model: LanguageModel, budget: string, schemes: readonly string[]): void {
  const own = readBudget(budget)!;
  let [least, weights] = [0, 0];
  for (const [, { shape }] of model.linearLayers()) {
    least += Math.min(...schemes.map((name) => schemeBytes(parseScheme(name), shape)));
    weights += shape[0] * shape[1];
  }
  const wanted = "bytes" in own ? own.bytes : own.bits * weights / 8;
  if (wanted >= least - 1) return;
  throw new RangeError(
    `Cannot fit the layers into ${budget}: the smallest of the schemes take ${
      (8 * least / weights).toFixed(3)
    } bits a weight, ${bytes(least)}; raise the budget, or allow smaller schemes`,
  );
}

/** What the choice and uniform schemes do to another text. */
interface Checked extends Shift {
  readonly scheme: string;
}

/** What `--measure` makes least: its name in tables, and its value. */
const MEASURES = {
  divergence: { title: "KL", of: ({ divergence }: Shift) => divergence },
  loss: { title: "loss change", of: ({ lossChange }: Shift) => lossChange },
};

type Measure = typeof MEASURES[keyof typeof MEASURES];

function printUnits(
  { units, others }: Sensitivity,
  chosen: Chosen,
  schemes: readonly string[],
  { title, of }: Measure,
): void {
  printLine(table(
    ["layers", "weights", ...schemes.map((name) => `${title} ${name}`), "chosen"],
    [...units, ...others].map(({ name, weights, schemes: own }, u) => [
      name,
      count(weights),
      ...own.map((shift) => significant(of(shift))),
      chosen.choices[u]?.scheme ?? "as it is",
    ]),
    { right: schemes.map((_, i) => i + 2).concat(1) },
  ));
}

/** What is measured by layer in one scheme, as a curve. */
function printCurve({ units }: Sensitivity, scheme: string, { title, of }: Measure): void {
  const values = units.map(({ schemes }) => of(schemes.find((own) => own.scheme === scheme)!));
  const drawn = curve(values, { width: 72, height: 8 });
  if (drawn !== "") {
    printLine(`\n${title} with one quantized to ${scheme}, in the model's order\n${drawn}`);
  }
}

function printChoice(chosen: Chosen, weights: number, { title }: Measure): void {
  const bits = 8 * chosen.bytes / weights;
  printLine(
    `\nChosen: ${bits.toFixed(3)} bits a weight, ${bytes(chosen.bytes)}; ${title} about ${
      significant(chosen.cost)
    } if losses add up`,
  );
  for (const { scheme, layers } of chosen.policy.rules) {
    printLine(`  ${scheme}: ${layers.length} layers`);
  }
}

function printChecked(checked: readonly Checked[]): void {
  printLine(`\nOn text that was not measured on, at the same places\n${
    table(
      ["scheme", "bits", "size", "KL", "loss change", "perplexity"],
      checked.map((own) => [
        own.scheme,
        own.bitsPerWeight.toFixed(3),
        bytes(own.bytes),
        significant(own.divergence),
        own.lossChange.toFixed(4),
        own.perplexity.toFixed(3),
      ]),
      { right: [1, 2, 3, 4, 5] },
    )
  }`);
}

/** The text that is measured, and the one on which the choice is checked, if it is. */
interface Texts {
  readonly ids: Int32Array;
  readonly others: Int32Array | null;
}

/** Reads them. Throws if there is too little to check on: before minutes of work, and not behind it. */
async function readTexts(
  tokenizer: Tokenizer,
  { text, check, limit }: SensitivityChoice,
): Promise<Texts> {
  const idsOf = async (path: string) => tokenizer.encode((await readText(path)).text);
  const whole = await idsOf(text);
  const others = check === undefined
    ? null
    : check === "rest"
    ? whole.subarray(limit, 5 * limit)
    : (await idsOf(check)).subarray(0, 4 * limit);
  if (others && others.length < 2) {
    throw new RangeError(
      `Cannot check the choice on ${others.length} tokens: wanted at least 2; lower --limit, or give another text`,
    );
  }
  return { ids: whole.subarray(0, limit), others };
}

async function measureLayers(
  model: LanguageModel,
  ids: Int32Array,
  { window, places, schemes, group, others, json }: SensitivityChoice,
): Promise<Sensitivity> {
  const total = [...model.linearLayers()].length * schemes.length;
  using bar = progress({ total, label: "Quantizing layers", json });
  const onProgress = (done: number, all: number) => bar.update(Math.round(done * total / all));
  return await measureSensitivity(model, {
    ...{ ids, window, places, schemes, group, others, onProgress },
  });
}

/** Compares the choice with all layers in one scheme, for each of the schemes. */
async function checkChosen(
  model: LanguageModel,
  ids: Int32Array,
  { policy }: Chosen,
  { schemes, window, places }: SensitivityChoice,
): Promise<Checked[]> {
  const uniform = schemes.map((otherwise) => ({ rules: [], otherwise }));
  const shifts = await measurePolicies(model, [policy, ...uniform], {
    ...{ ids, window, places: 4 * places },
  });
  return shifts.map((own, i) => ({ scheme: ["chosen", ...schemes][i], ...own }));
}

async function runSensitivity(options: SensitivityChoice): Promise<void> {
  const { model: name, text, budget, schemes, group, method, measure, out, json } = options;
  await checkOutFile(out, "--out");
  using device = await openDevice();
  const model = await openPlain(device, name);
  checkBudget(model, budget, schemes);
  const { ids, others } = await readTexts(tokenizerOf(model, `measure "${name}"`), options);
  const sensitivity = await measureLayers(model, ids, options);
  const chosen = chooseBits(sensitivity, { ...readBudget(budget)!, method, measure });
  if (out !== undefined) await savePolicy(out, chosen.policy);
  const checked = others && await checkChosen(model, others, chosen, options);
  if (json) {
    const { choices: _, ...rest } = chosen;
    const bitsPerWeight = 8 * chosen.bytes / sensitivity.weights;
    return printJson({
      ...{ model: name, text, budget, method, measure, group, tokens: ids.length },
      sensitivity,
      chosen: { ...rest, bitsPerWeight },
      checked,
    });
  }
  const measured = MEASURES[measure];
  printUnits(sensitivity, chosen, schemes, measured);
  printCurve(sensitivity, schemes.at(-1)!, measured);
  printChoice(chosen, sensitivity.weights, measured);
  if (checked) printChecked(checked);
  if (out !== undefined) printLine(`Written to ${out}`);
}

const command: Command = defineCommand({
  name: "quantize sensitivity",
  summary: "Quantize one layer at a time, see what is lost, and choose bits for each within a size",
  examples: [
    [
      "nibble quantize sensitivity --model ./SmolLM2-135M --text book.txt --budget 5.0bits --out mixed.json",
      "the best mix at 5 bits a weight, as a policy for quantize compare --policy",
    ],
    [
      "nibble quantize sensitivity --model ./SmolLM2-135M --text book.txt --group type --check rest --json",
      "one scheme for each kind of layer, and how that does on what follows in the text, for machines",
    ],
  ],
  options: OPTIONS,
  check({ budget, schemes }, check) {
    if (readBudget(budget) === null) {
      check.refuse("budget", "wanted bits a weight such as 5 or 5.0bits, or a size such as 60MB");
    }
    const wrong = schemes.find((name) => !isSchemeName(name));
    if (wrong !== undefined) {
      check.refuse(
        "schemes",
        `found "${wrong}", wanted names such as f32, int8, int4, int4-g32, hqq, nf4, nf4-dq`,
      );
    }
  },
  run: runSensitivity,
});
export default command;
