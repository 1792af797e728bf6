/** `nibble bench`: how fast kernels and whole steps are on this machine. */
import { z } from "zod";
import { compareReports } from "../bench/compare.ts";
import { benchEndToEnd, type EndToEndTiming, WORKS } from "../bench/end_to_end/run.ts";
import { benchKernels, KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import { type BenchReport, readReport, versionsHere } from "../bench/report.ts";
import { checkTargets, showTargets } from "../bench/targets.ts";
import type { AdapterDescription } from "../core/adapter.ts";
import { type Device, openDevice } from "../core/device.ts";
import { writeWhole } from "../train/files/output.ts";
import { KERNEL_HEAD, showComparison, showKernel, showWork, WORK_HEAD } from "./bench_tables.ts";
import { type Command, defineCommand } from "./command.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonOutput, textList } from "./options.ts";
import { percent, printJson, printLine } from "./print.ts";
import { showProfile } from "./profile_table.ts";

const KERNELS = [...new Set(KERNEL_CASES.map(({ kernel }) => kernel))];
const WORK_NAMES = WORKS.map(({ name }) => name);

const OPTIONS = z.strictObject({
  files: z.array(z.string().min(1)).default([])
    .meta({ description: "files of results, for --compare and --targets", placeholder: "FILE" }),
  kernel: textList().optional()
    .meta({
      description: "only kernels whose names begin with one of these",
      placeholder: "NAMES",
    }),
  size: z.int().min(1).optional().describe(
    "one length for M, N and K, for rows and columns, or for sequences",
  ),
  filter: z.string().min(1).optional()
    .meta({ description: "only kernels and whole steps whose name contains this" }),
  endToEnd: z.boolean().default(false)
    .describe("whole training steps and answers, on models with random weights"),
  all: z.boolean().default(false).describe("both kernels and whole steps"),
  profile: z.boolean().default(false)
    .describe("also say which kernels a whole step spends its time in"),
  repeats: z.int().min(1).optional()
    .describe("runs in each timed stretch; by default as many as time well"),
  sizes: z.enum(["tiny", "software", "gpu"]).optional()
    .describe("lengths of tests, of a small, or of a large model; by default as the adapter is"),
  json: jsonOutput(),
  compare: z.boolean().default(false)
    .describe("compare two files of results: the times of the second as a share of the first's"),
  targets: z.boolean().default(false)
    .describe("put files of results into the table of what nibble shall reach, in Markdown"),
  threshold: z.number().min(0).default(0.1)
    .describe("with --compare: mark rows that take longer by more than this share"),
});

type BenchChoice = z.output<typeof OPTIONS>;

function checkChoice(options: BenchChoice, check: OptionCheck<keyof BenchChoice>): void {
  const { files, filter, kernel, endToEnd, all, profile, compare, targets } = options;
  const names = all ? [...KERNELS, ...WORK_NAMES] : endToEnd ? WORK_NAMES : KERNELS;
  const wanted = `wanted a part of ${names.join(", ")}`;
  if (filter !== undefined && !names.some((name) => name.includes(filter))) {
    check.refuse("filter", `found ${JSON.stringify(filter)}, ${wanted}`);
  }
  const unknown = kernel?.find((part) => !KERNELS.some((name) => name.startsWith(part)));
  if (unknown !== undefined) {
    check.refuse(
      "kernel",
      `found ${JSON.stringify(unknown)}, wanted the beginning of ${KERNELS.join(", ")}`,
    );
  }
  if (profile && !endToEnd && !all) check.refuse("profile", "wanted --end-to-end with it");
  if (compare && files.length !== 2) {
    check.refuse("files", `found ${files.length} files, wanted two`);
  }
  if (targets && files.length === 0) check.refuse("files", "found 0 files, wanted at least one");
  if (compare && targets) check.refuse("targets", "wanted it without --compare");
  if (!compare && !targets && files.length > 0) {
    check.refuse("files", "wanted --compare or --targets with it");
  }
}

/** Prints where stdout is for people. */
type Say = (line: string) => void;

async function benchWorks(options: BenchChoice, say: Say): Promise<EndToEndTiming[]> {
  const { filter, profile, sizes } = options;
  say(WORK_HEAD);
  return await benchEndToEnd(openDevice, {
    filter,
    profile,
    sizes: sizes && (sizes === "gpu" ? "full" : "tiny"),
    onResult: (result) => {
      say(showWork(result));
      if (result.profile) say(`${showProfile(result.profile)}\n`);
    },
  });
}

async function benchOnKernels(
  device: Device,
  options: BenchChoice,
  say: Say,
): Promise<KernelTiming[]> {
  const { filter, kernel: kernels, size, repeats, sizes } = options;
  say(KERNEL_HEAD);
  const onResult = (result: KernelTiming) => say(showKernel(result));
  return await benchKernels(device, { filter, kernels, size, repeats, sizes, onResult });
}

function showVersions(versions: Readonly<Record<string, string>>): string {
  return Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
}

function has(names: readonly string[], filter = ""): boolean {
  return names.some((name) => name.includes(filter));
}

async function measure(options: BenchChoice): Promise<void> {
  const { all, endToEnd, filter, json } = options;
  const say: Say = json === "-" ? () => {} : printLine;
  const versions = await versionsHere();
  let adapter: AdapterDescription;
  let kernels: KernelTiming[] = [];
  {
    // Closed before whole steps begin: their memory is measured.
    using device = await openDevice();
    adapter = device.adapter;
    say(`${adapter.name} (${adapter.type}), ${showVersions(versions)}`);
    const wanted = (!endToEnd || all) && has(KERNELS, filter);
    if (wanted) kernels = await benchOnKernels(device, options, say);
  }
  const works = (endToEnd || all) && has(WORK_NAMES, filter) ? await benchWorks(options, say) : [];
  const rows = works.map(({ profile, ...rest }) =>
    profile ? { ...rest, kernels: profile.kernels } : rest
  );
  const report: BenchReport = { adapter, versions, results: [...kernels, ...rows] };
  if (json === "-") printJson(report);
  else if (json !== undefined) {
    await writeWhole(json, `${JSON.stringify(report, null, 2)}\n`);
    say(`Written to ${json}`);
  }
  const wrong = kernels.filter(({ ms }) => ms === null);
  if (wrong.length === 0) return;
  const list = wrong.map(({ name, error, allowed }) =>
    `${name} (error ${error.toExponential(1)}, allowed ${allowed})`
  );
  throw new Error(`Cannot trust ${wrong.length} results on this adapter: ${list.join(", ")}`);
}

async function compare({ files, threshold, json }: BenchChoice): Promise<void> {
  const [before, after] = await Promise.all(files.map(readReport));
  const found = compareReports(before, after, threshold);
  if (json !== undefined && json !== "-") {
    await writeWhole(json, `${JSON.stringify(found, null, 2)}\n`);
  }
  if (json === "-") return printJson(found);
  for (const [index, { adapter, versions }] of [before, after].entries()) {
    printLine(
      [`${files[index]}: ${adapter.name}`, showVersions(versions)].filter(Boolean).join(", "),
    );
  }
  printLine(showComparison(found));
  const worse = found.rows.filter(({ isWorse }) => isWorse).length;
  printLine(
    `${found.rows.length} rows, ${worse} of them wrong or slower by more than ${
      percent(threshold)
    }`,
  );
}

async function listTargets({ files, json }: BenchChoice): Promise<void> {
  const reports = await Promise.all(files.map(readReport));
  const found = checkTargets(reports);
  const rows = found.map(({ work, peer, wanted, measured, isMet, command }) => {
    return { work, peer, wanted, measured, isMet, command };
  });
  if (json !== undefined && json !== "-") {
    await writeWhole(json, `${JSON.stringify(rows, null, 2)}\n`);
  }
  if (json === "-") return printJson(rows);
  printLine(showTargets(found));
}

const bench: Command = defineCommand({
  name: "bench",
  summary: "Time kernels, each checked against its reference, or whole training steps and answers",
  examples: [
    ["nibble bench", "every kernel, at sizes that suit the adapter"],
    ["nibble bench --kernel matmul --size 512 --json", "products of 512×512 matrices, as JSON"],
    ["nibble bench --kernel softmax,attention", "two families"],
    ["nibble bench --end-to-end --filter qlora", "steps of QLoRA on models of 135M and 7B weights"],
    ["nibble bench --all --json today.json", "all there is, and a file of the results"],
    ["nibble bench --compare yesterday.json today.json", "what became faster, and what slower"],
    ["nibble bench --targets today.json torch.json", "what nibble shall reach on an H100"],
  ],
  positionals: ["files"],
  options: OPTIONS,
  check: checkChoice,
  run: (options) => {
    if (options.compare) return compare(options);
    return options.targets ? listTargets(options) : measure(options);
  },
});
export default bench;
