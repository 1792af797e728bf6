/**
 * What `nibble quantize compare` prints for people.
 *
 * @module
 */
import type { SchemeResult } from "../train/eval/compare_schemes.ts";
import { bytes, percent, row, significant, table } from "./print.ts";

const COLUMNS: readonly (readonly [name: string, width: number])[] = [
  ["scheme", 12],
  ["perplexity", -10],
  ["loss change", -11],
  ["95 %", -8],
  ["bits", -6],
  ["size", -8],
  ["of f32", -7],
  ["accuracy", -8],
  ["drop", -14],
  ["same token", -10],
  ["KL", -8],
  ["tokens/s", -8],
];

/** A difference of shares, in points, with the half width of its interval. */
const points = (share: number, interval: number) =>
  `${(100 * share).toFixed(2)} ±${(100 * interval).toFixed(2)} %`;

/** The rows of the first table, which are printed as results come. */
export class SchemeRows {
  readonly #plainBytes: number;
  readonly #widths: readonly number[];

  /** For results of these schemes; `plainBytes` is what the model takes in 32 bits. */
  constructor(schemes: Iterable<string>, plainBytes: number) {
    const longest = Math.max(...[...schemes].map(({ length }) => length));
    this.#widths = COLUMNS.map(([, width], i) => i === 0 ? Math.max(width, longest) : width);
    this.#plainBytes = plainBytes;
  }

  /** The names of the columns. */
  get head(): string {
    return row(COLUMNS.map(([column]) => column), this.#widths);
  }

  /** A result's row. */
  of(result: SchemeResult): string {
    const { scheme, perplexity, lossChange, lossChangeInterval, bitsPerWeight } = result;
    return row([
      scheme,
      perplexity.toFixed(3),
      lossChange.toFixed(4),
      Number.isNaN(lossChangeInterval) ? "" : `±${lossChangeInterval.toFixed(4)}`,
      bitsPerWeight.toFixed(3),
      bytes(result.bytes),
      percent(result.bytes / this.#plainBytes),
      percent(result.accuracy),
      points(result.accuracyDrop, result.accuracyDropInterval),
      percent(result.agreement),
      significant(result.divergence),
      significant(result.tokensPerSecond),
    ], this.#widths);
  }
}

/** Where a scheme errs most. */
function worstLayer({ layers, leastCosine }: SchemeResult): string {
  return layers.find(({ cosine }) => cosine === leastCosine)?.layer ?? "";
}

/** What rounding does to the weights, and what runs take. */
export function errorTable(results: readonly SchemeResult[]): string {
  const answered = results.some((own) => own.answered !== null);
  return table(
    ["scheme", "SQNR dB", "largest error", "mean error", "least cosine", "of", "memory"]
      .concat(answered ? ["answers right", "drop"] : []),
    results.map((own) => [
      own.scheme,
      own.sqnr === null ? "" : own.sqnr.toFixed(1),
      significant(own.largestError),
      significant(own.meanError),
      own.leastCosine.toFixed(6),
      worstLayer(own),
      bytes(own.memory),
      ...answered
        ? [percent(own.answered!), points(own.answeredDrop!, own.answeredDropInterval!)]
        : [],
    ]),
    { right: [1, 2, 3, 4, 6, 7, 8] },
  );
}

/** A drop of the accuracy and its interval: of answers, if there are any that were right before. */
function dropOf(own: SchemeResult): { drop: number; interval: number } {
  const { answered, answeredDrop, answeredDropInterval } = own;
  return answered !== null && answered + answeredDrop! > 0
    ? { drop: answeredDrop!, interval: answeredDropInterval! }
    : { drop: own.accuracyDrop, interval: own.accuracyDropInterval };
}

const BARS = ["under 1 %, as critical uses want", "under 5 %, as most uses allow", "5 % and more"];
const UNSETTLED = "that so few places or answers do not settle";

/** What holds of a drop's whole interval, by the two usual bars. */
function barOf(own: SchemeResult): string {
  const { drop, interval } = dropOf(own);
  if (drop + interval < 0.01) return BARS[0];
  if (drop + interval < 0.05) return BARS[1];
  return drop - interval >= 0.05 ? BARS[2] : UNSETTLED;
}

/** Which schemes lose how much accuracy. */
export function bars(results: readonly SchemeResult[]): string[] {
  const lost = Map.groupBy(results.filter(({ scheme }) => scheme !== "f32"), barOf);
  return [...BARS, UNSETTLED].filter((bar) => lost.has(bar))
    .map((bar) =>
      `Drop of the accuracy ${bar}: ${lost.get(bar)!.map(({ scheme }) => scheme).join(", ")}`
    );
}
