/** `nibble quantize calibrate`: ranges of what a model's layers read, for static quantization of activations. */
import { z } from "zod";
import { openDevice } from "../core/device.ts";
import type { Range } from "../kernels/quant/affine.ts";
import { readText } from "../train/data/dataset.ts";
import { defaultWindow } from "../train/data/windows.ts";
import type { LanguageModel } from "../train/models/language_model.ts";
import { type ActivationRanges, calibrateActivations } from "../train/quant/activation_ranges.ts";
import type { CalibrationText } from "../train/quant/calibration.ts";
import type { CalibrationObserver } from "../train/quant/input_statistics.ts";
import {
  type InputReport,
  type ObserverError,
  OUTLYING,
  OVERBEARING,
} from "../train/quant/input_errors.ts";
import { observerReport } from "../train/quant/observer_report.ts";
import { saveRanges } from "../train/quant/range_file.ts";
import { moveFactors } from "../train/quant/smooth_quant.ts";
import { type Command, defineCommand } from "./command.ts";
import { embedded } from "./embedded.ts";
import { MODEL_OPTIONS, openPlain, tokenizerOf } from "./model_options.ts";
import { checkOutFile } from "./out_folder.ts";
import { jsonSwitch } from "./options.ts";
import { count, printError, printJson, printLine, significant, table } from "./print.ts";

const OBSERVERS = ["min-max", "moving-average", "percentile", "mse", "entropy"] as const;

const OPTIONS = z.strictObject({
  model: MODEL_OPTIONS.model,
  text: z.string().min(1).optional().meta({
    description: "what the model reads, a text like those that it will be used on; " +
      "by default definitions that come with nibble",
    placeholder: "FILE",
  }),
  observer: z.enum(OBSERVERS).default("min-max").meta({ description: "how ranges are chosen" }),
  percentile: z.number().positive().max(100).default(99.99)
    .meta({ description: "with percentile: what is not clipped, in percent" }),
  momentum: z.number().positive().max(1).default(0.01)
    .meta({ description: "with moving-average: a window's weight" }),
  kind: z.enum(["symmetric", "asymmetric"]).default("symmetric")
    .meta({ description: "whether 0 is in the middle, or at a zero point" }),
  smooth: z.number().min(0).max(1).optional().meta({
    description: "first move outliers into the weights (SmoothQuant) with this alpha; 0.5 is usual",
    placeholder: "ALPHA",
  }),
  window: z.int().min(2).optional()
    .meta({
      description: "tokens that are read at a time; 256, or the model's context if that is less",
    }),
  tokens: z.int().min(2).default(4096)
    .meta({ description: "how many tokens of the text are read at most" }),
  out: z.string().min(1).optional().meta({
    description: "write the ranges to this file, for quantize compare --ranges and for loadRanges",
    placeholder: "FILE",
  }),
  report: z.boolean().default(true)
    .meta({
      description:
        "compare all observers on each layer, per tensor and per channel, and name outliers",
    }),
  json: jsonSwitch(),
});

/** The report of the model as it is when the ranges are used: smoothed, if they are. */
async function reportOf(
  model: LanguageModel,
  text: CalibrationText,
  { kind, smoothing }: ActivationRanges,
): Promise<InputReport[]> {
  const moved = smoothing && moveFactors(model, smoothing.scalings);
  try {
    return await observerReport(model, text, kind);
  } finally {
    moved?.restore();
  }
}

const shown = (sqnr: number | null) => sqnr === null ? "" : sqnr.toFixed(1);
const shownRange = ({ low, high }: Range) => `${significant(low)} … ${significant(high)}`;

/** The observer that loses least on each input, and on how many. */
function bestOf(report: readonly InputReport[], ratio: (own: ObserverError) => number | null) {
  const wins = new Map<string, number>();
  for (const { observers } of report) {
    const of = (own: ObserverError) => ratio(own) ?? Infinity;
    const best = observers.reduce((a, b) => of(b) > of(a) ? b : a).observer;
    wins.set(best, (wins.get(best) ?? 0) + 1);
  }
  return [...wins].sort(([, a], [, b]) => b - a)
    .map(([name, count]) => `${name} on ${count}`).join(", ");
}

/** A row for each input, a column for each observer. */
function printErrors(
  report: readonly InputReport[],
  title: string,
  ratio: (own: ObserverError) => number | null,
  more: readonly [string, (own: InputReport) => number | null][] = [],
): void {
  const names = report[0].observers.map(({ observer }) => observer.replace("percentile", "%"));
  const head = ["input of"].concat(names, more.map(([name]) => name));
  const rows = report.map((own) =>
    [own.layers[0]]
      .concat(own.observers.map((one) => shown(ratio(one))))
      .concat(more.map(([, of]) => shown(of(own))))
  );
  printLine(`${title}, signal to noise in 8 bits in dB, by observer:`);
  printLine(table(head, rows, { right: head.map((_, i) => i).slice(1) }));
  printLine(`Best: ${bestOf(report, ratio)} of ${report.length} inputs`);
  printLine();
}

/** Outliers of all inputs that are shown, those that stand out most. */
const MOST_SHOWN = 12;

function printOutliers(report: readonly InputReport[]): void {
  const all = report.flatMap(({ layers, outliers, median }) =>
    outliers.map((own) => ({ layers, own, median }))
  ).sort((a, b) => b.own.timesMedian - a.own.timesMedian);
  if (all.length > 0) {
    const found = report.reduce((sum, { outlying }) => sum + outlying, 0);
    printLine(
      `Channels at least ${OUTLYING} times as large as the median one of their input${
        found > MOST_SHOWN ? `, the first ${MOST_SHOWN} of ${count(found)}` : ""
      }:`,
    );
    printLine(table(
      ["input of", "channel", "its range", "median channel", "its range", "times"],
      all.slice(0, MOST_SHOWN).map(({ layers, own, median }) => [
        layers[0],
        String(own.channel),
        shownRange(own.range),
        String(median.channel),
        shownRange(median.range),
        Number.isFinite(own.timesMedian) ? own.timesMedian.toFixed(1) : "",
      ]),
      { right: [1, 2, 3, 4, 5] },
    ));
  }
  const [worst] = report.toSorted((a, b) => b.outlier.timesMedian - a.outlier.timesMedian);
  const { layers, outlier } = worst;
  printLine(
    `The largest outlier: ${significant(outlier.magnitude)} in channel ${outlier.channel} of what ${
      layers.join(", ")
    } read${layers.length > 1 ? "" : "s"}, ${
      significant(outlier.timesMedian)
    } times the median channel's largest`,
  );
}

function printReport(report: readonly InputReport[]): void {
  printErrors(report, "One range for all numbers of an input", ({ sqnr }) => sqnr, [
    ["per token", ({ perToken }) => perToken],
  ]);
  printErrors(report, "One range for each of its channels", ({ perChannel }) => perChannel.sqnr);
  printOutliers(report);
}

/** What is likely to be overlooked. */
function adviceOf(
  { text, smooth, observer }: z.output<typeof OPTIONS>,
  report: readonly InputReport[] | null,
): string[] {
  const advice: string[] = [];
  if (text === undefined) {
    advice.push(
      "the text was definitions that come with nibble; pass --text, one like those that the model will read",
    );
  }
  const worst = report?.filter(({ outlier }) => outlier.timesMedian >= OVERBEARING) ?? [];
  if (worst.length > 0 && smooth === undefined && observer === "min-max") {
    advice.push(
      `on ${worst.length} of ${
        report!.length
      } inputs an outlier takes the range from all others: --smooth 0.5 moves it into ` +
        "the weights, and --observer percentile or mse clips it",
    );
  }
  return advice;
}

const command: Command = defineCommand({
  name: "quantize calibrate",
  summary: "Find the ranges of a model's activations on a text, and what each observer costs",
  examples: [
    [
      "nibble quantize calibrate --model ./SmolLM2-135M --text notes.txt --observer percentile --out ranges.json",
      "ranges that clip 0.01 % of the numbers, kept for later",
    ],
    [
      "nibble quantize calibrate --model ./SmolLM2-135M --text notes.txt --smooth 0.5 --out ranges.json --no-report",
      "SmoothQuant's factors, and the ranges that are left",
    ],
  ],
  options: OPTIONS,
  check({ observer }, check) {
    if (observer !== "percentile") {
      check.refuseSaid(["percentile"], "wanted --observer percentile with it");
    }
    if (observer !== "moving-average") {
      check.refuseSaid(["momentum"], "wanted --observer moving-average with it");
    }
  },
  async run(options) {
    const { model: name, observer: kind, percentile, momentum, json, out } = options;
    await checkOutFile(out, "--out");
    using device = await openDevice();
    const model = await openPlain(device, name);
    const tokenizer = tokenizerOf(model, `calibrate "${name}"`);
    const read = options.text ?? (await embedded()).heldout;
    const ids = tokenizer.encode((await readText(read)).text).subarray(0, options.tokens);
    // As quantize compare reads, which may measure with these ranges.
    const window = options.window ?? defaultWindow(model.config, "compare");
    const text = { ids, window };
    const observer: CalibrationObserver = kind === "percentile"
      ? { kind, percentile }
      : kind === "moving-average"
      ? { kind, momentum }
      : { kind };
    const { smooth } = options;
    const ranges = await calibrateActivations(model, {
      ...{ text, observer, smooth },
      kind: options.kind,
    });
    if (out !== undefined) await saveRanges(out, ranges);
    const report = options.report ? await reportOf(model, text, ranges) : null;
    if (json) {
      const layers = [...ranges.layers].map(([layer, { range, seen }]) => ({ layer, range, seen }));
      return printJson({
        ...{ model: name, text: read, tokens: ranges.tokens, window, observer },
        ...{ kind: ranges.kind, smooth: smooth ?? null, out: out ?? null, layers, report },
      });
    }
    if (report) printReport(report);
    for (const line of adviceOf(options, report)) printError(`Warning: ${line}`);
    printLine(
      `Calibrated ${ranges.layers.size} layers on ${count(ranges.tokens)} tokens${
        out === undefined ? "; nothing was written, pass --out to keep the ranges" : `, see ${out}`
      }`,
    );
  },
});
export default command;
