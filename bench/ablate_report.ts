/**
 * What the runs of an ablation add up to: a row for each rank and set of modules, as JSON and as CSV.
 *
 * @module
 */
import { writeWhole } from "../train/files/output.ts";
import type { AblationMeasures, AblationRun } from "./ablate_store.ts";

/** A number over all seeds. */
export interface Spread {
  /** The mean. */
  readonly mean: number;
  /** The sample standard deviation (with n − 1); null for one seed. */
  readonly deviation: number | null;
}

/** All seeds of one rank and one set of modules. */
export interface AblationSummary {
  /** The rank. */
  readonly r: number;
  /** LoRA's alpha. */
  readonly alpha: number;
  /** The names of the layers with an adapter, or "all-linear". */
  readonly modules: string;
  /** How many seeds. */
  readonly seeds: number;
  /** The share of test examples that are answered exactly. */
  readonly accuracy: Spread;
  /** On what the report's `perplexityOf` says. */
  readonly perplexity: Spread;
  /** How many numbers the adapter has. */
  readonly trainable: number;
  /** Its bytes, in 32 bits. */
  readonly adapterBytes: number;
  /** Mean seconds of training. */
  readonly seconds: number;
  /** Mean tokens in a second. */
  readonly tokensPerSecond: number;
  /** The most GPU memory in training, of all seeds. */
  readonly peakBytes: number;
  /** The mean of the final losses. */
  readonly loss: number;
  /** Whether its mean accuracy is the highest, and above 0; of several the one with the fewest parameters. */
  readonly isBest: boolean;
  /** Whether it has the fewest parameters of those within one standard deviation (the best row's) of the best. */
  readonly isRecommended: boolean;
}

/** The mean and sample standard deviation of numbers. */
export function spreadOf(values: readonly number[]): Spread {
  const mean = values.reduce((sum, value) => sum + value, 0) / values.length;
  if (values.length < 2) return { mean, deviation: null };
  const squares = values.reduce((sum, value) => sum + (value - mean) ** 2, 0);
  return { mean, deviation: Math.sqrt(squares / (values.length - 1)) };
}

/** Means come out of sums that round: what should be equal may differ in the last bits. */
const ROUNDING = 1e-9;

/** The rows of a report, by modules and then by rank, in the order in which the runs stand. */
export function summarize(runs: readonly AblationRun[]): AblationSummary[] {
  const groups = Map.groupBy(runs, ({ r, modules }) => `${modules} ${r}`);
  const rows = [...groups.values()].map((own) => {
    const of = (name: keyof AblationMeasures) => own.map((run) => run[name]);
    const [{ r, alpha, modules, trainable, adapterBytes }] = own;
    return {
      r,
      alpha,
      modules,
      seeds: own.length,
      accuracy: spreadOf(of("accuracy")),
      perplexity: spreadOf(of("perplexity")),
      trainable,
      adapterBytes,
      seconds: spreadOf(of("seconds")).mean,
      tokensPerSecond: spreadOf(of("tokensPerSecond")).mean,
      peakBytes: Math.max(...of("peakBytes")),
      loss: spreadOf(of("loss")).mean,
    };
  });
  const smallest = rows.toSorted((a, b) => a.trainable - b.trainable);
  const highest = Math.max(...rows.map(({ accuracy }) => accuracy.mean));
  const above = (bound: number) =>
    smallest.find(({ accuracy }) => highest > 0 && accuracy.mean >= bound - ROUNDING);
  const best = above(highest);
  const recommended = above(highest - (best?.accuracy.deviation ?? 0));
  return rows.map((row) => ({
    ...row,
    isBest: row === best,
    isRecommended: row === recommended,
  }));
}

/** One field of CSV (RFC 4180). */
function field(value: string | number | boolean | null): string {
  const text = value === null ? "" : String(value);
  return /[",\r\n]/.test(text) ? `"${text.replaceAll('"', '""')}"` : text;
}

const COLUMNS = [
  ...["row", "modules", "r", "alpha", "seed", "accuracy", "accuracy_deviation", "perplexity"],
  ...["perplexity_deviation", "trainable", "adapter_bytes", "seconds", "tokens_per_second"],
  ...["peak_bytes", "loss", "best", "recommended"],
];

/** Runs and summary rows in one table: the first column, `run` or `summary`, tells them apart. */
export function toCsv(
  runs: readonly AblationRun[],
  summary: readonly AblationSummary[],
): string {
  const rows: (string | number | boolean | null)[][] = [COLUMNS];
  for (const run of runs) {
    rows.push([
      ...["run", run.modules, run.r, run.alpha, run.seed, run.accuracy, null],
      ...[run.perplexity, null, run.trainable, run.adapterBytes, run.seconds],
      ...[run.tokensPerSecond, run.peakBytes, run.loss, null, null],
    ]);
  }
  for (const row of summary) {
    const { accuracy, perplexity } = row;
    rows.push([
      ...["summary", row.modules, row.r, row.alpha, null, accuracy.mean, accuracy.deviation],
      ...[perplexity.mean, perplexity.deviation, row.trainable, row.adapterBytes, row.seconds],
      ...[row.tokensPerSecond, row.peakBytes, row.loss, row.isBest, row.isRecommended],
    ]);
  }
  return rows.map((row) => `${row.map(field).join(",")}\n`).join("");
}

/** Writes a report into a folder as ablation.json and ablation.csv, each whole. */
export async function writeReport(
  folder: string,
  report: { readonly runs: readonly AblationRun[]; readonly summary: readonly AblationSummary[] },
): Promise<{ json: string; csv: string }> {
  const files = { json: `${folder}/ablation.json`, csv: `${folder}/ablation.csv` };
  await writeWhole(files.json, `${JSON.stringify(report, null, 2)}\n`);
  await writeWhole(files.csv, toCsv(report.runs, report.summary));
  return files;
}
