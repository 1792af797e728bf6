/** `nibble bench`: how fast kernels and whole steps are on this machine. */
import { z } from "zod";
import { compareReports } from "../bench/compare.ts";
import { benchEndToEnd, type EndToEndTiming, WORKS } from "../bench/end_to_end/run.ts";
import { benchKernels, KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import { type BenchReport, readReport, type SkippedRow, versionsHere } from "../bench/report.ts";
import { checkTargets, showTargets } from "../bench/targets.ts";
import type { AdapterDescription } from "../core/adapter.ts";
import { type Device, openDevice } from "../core/device.ts";
import { writeWhole } from "../train/files/output.ts";
import {
  KERNEL_HEAD,
  showComparison,
  showKernel,
  showSkipped,
  showWork,
  WORK_HEAD,
} from "./bench_tables.ts";
import { type Command, defineCommand } from "./command.ts";
import type { OptionCheck } from "./option_check.ts";
import { jsonOutput, textList } from "./options.ts";
import { checkOutFile } from "./out_folder.ts";
import { counted, percent, printJson, printLine, type Say } from "./print.ts";
import { showProfile } from "./profile_table.ts";

const KERNELS = [...new Set(KERNEL_CASES.map(({ kernel }) => kernel))];
const WORK_NAMES = WORKS.map(({ name }) => name);
/** The first words of the kernels' names: all of them would be a page. */
const FAMILIES = [...new Set(KERNELS.map((name) => name.split(/[ ,]/)[0]))];

/** The kernels whose names begin with one of these. */
function kernelsOf(starts: readonly string[] = [""]): string[] {
  return KERNELS.filter((name) => starts.some((start) => name.startsWith(start)));
}

/** Options that say what is measured, and how. */
const MEASURING = [
  "kernel",
  "size",
  "filter",
  "endToEnd",
  "all",
  "profile",
  "repeats",
  "sizes",
] as const;

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
    .describe("compare two files of results: how many times as fast the second's rows are"),
  targets: z.boolean().default(false)
    .describe("put files of results into the table of what nibble shall reach, in Markdown"),
  threshold: z.number().min(0).default(0.1)
    .describe("with --compare: mark rows that take longer by more than this share"),
});

type BenchChoice = z.output<typeof OPTIONS>;

function checkChoice(options: BenchChoice, check: OptionCheck<keyof BenchChoice>): void {
  const { files, profile, compare, targets } = options;
  checkNames(options, check);
  if (!measuresKernels(options)) {
    check.refuseSaid(
      ["kernel", "size", "repeats"],
      "found it with --end-to-end, which times no kernels alone",
    );
  }
  if (check.said("sizes")) {
    check.refuseSaid(["size"], "found it with --sizes, which sets lengths too: give one of them");
  }
  if (profile && !measuresWorks(options)) check.refuse("profile", "wanted --end-to-end with it");
  if (compare || targets) {
    const flag = compare ? "--compare" : "--targets";
    check.refuseSaid(MEASURING, `found it with ${flag}, which measures nothing`);
  }
  if (!compare) check.refuseSaid(["threshold"], "wanted --compare with it");
  if (compare && files.length !== 2) {
    check.refuse("files", `found ${files.length} files, wanted two`);
  }
  if (targets && files.length === 0) check.refuse("files", "found 0 files, wanted at least one");
  if (compare && targets) check.refuse("targets", "wanted it without --compare");
  if (!compare && !targets && files.length > 0) {
    check.refuse("files", "wanted --compare or --targets with it");
  }
}

/** Checks that what is named is there. */
function checkNames(options: BenchChoice, check: OptionCheck<keyof BenchChoice>): void {
  const { filter, kernel } = options;
  const unknown = kernel?.find((start) => kernelsOf([start]).length === 0);
  if (unknown !== undefined) {
    check.refuse(
      "kernel",
      `found ${JSON.stringify(unknown)}, wanted the beginning of a kernel's name: ${
        FAMILIES.join(", ")
      }`,
    );
    return;
  }
  const works = measuresWorks(options) ? WORK_NAMES : [];
  const kernels = measuresKernels(options) ? kernelsOf(kernel) : [];
  if (filter === undefined || has([...kernels, ...works], filter)) return;
  const parts = kernels.length < KERNELS.length ? kernels : FAMILIES;
  check.refuse(
    "filter",
    `found ${JSON.stringify(filter)}, wanted a part of ${[...parts, ...works].join(", ")}`,
  );
}

function measuresKernels({ all, endToEnd }: BenchChoice): boolean {
  return all || !endToEnd;
}

function measuresWorks({ all, endToEnd }: BenchChoice): boolean {
  return all || endToEnd;
}

/** What was measured so far, and what was not. */
interface Found {
  /** On what and with what, once a device is open. */
  made?: Pick<BenchReport, "adapter" | "versions"> & { adapter: AdapterDescription };
  readonly kernels: KernelTiming[];
  readonly works: EndToEndTiming[];
  readonly skipped: SkippedRow[];
  /** Those of them that failed; the others have lengths that do not fit. */
  readonly faults: SkippedRow[];
}

async function benchWorks(options: BenchChoice, found: Found, say: Say): Promise<void> {
  const { filter, profile, sizes } = options;
  say(WORK_HEAD);
  await benchEndToEnd(openDevice, {
    filter,
    profile,
    sizes: sizes && (sizes === "gpu" ? "full" : "tiny"),
    onResult: (result) => {
      found.works.push(result);
      say(showWork(result));
      if (result.profile) say(`${showProfile(result.profile)}\n`);
    },
    onSkip: (row) => {
      found.skipped.push(row);
      found.faults.push(row);
      say(showSkipped(row));
    },
  });
}

async function benchOnKernels(
  device: Device,
  options: BenchChoice,
  found: Found,
  say: Say,
): Promise<void> {
  const { filter, kernel: kernels, size, repeats, sizes } = options;
  say(KERNEL_HEAD);
  await benchKernels(device, {
    ...{ filter, kernels, size, repeats, sizes },
    onResult: (result) => {
      found.kernels.push(result);
      say(showKernel(result));
    },
    onSkip: (row, isFault) => {
      found.skipped.push(row);
      if (isFault) found.faults.push(row);
      say(showSkipped(row));
    },
  });
}

function showVersions(versions: Readonly<Record<string, string>>): string {
  return Object.entries(versions).map(([name, version]) => `${name} ${version}`).join(", ");
}

function has(names: readonly string[], filter = ""): boolean {
  return names.some((name) => name.includes(filter));
}

/** Measures what was asked for. */
async function measureInto(found: Found, options: BenchChoice, say: Say): Promise<void> {
  const { filter, kernel } = options;
  {
    // Closed before whole steps begin: their memory is measured.
    using device = await openDevice();
    const { adapter } = found.made = { adapter: device.adapter, versions: await versionsHere() };
    say(`${adapter.name} (${adapter.type}), ${showVersions(found.made.versions)}`);
    const isWanted = measuresKernels(options) && has(kernelsOf(kernel), filter);
    if (isWanted) await benchOnKernels(device, options, found, say);
  }
  if (measuresWorks(options) && has(WORK_NAMES, filter)) await benchWorks(options, found, say);
}

async function writeFound(found: Found, { json }: BenchChoice): Promise<void> {
  const { made, kernels, works, skipped } = found;
  if (!made || json === undefined) return;
  const rows = works.map(({ profile, ...rest }) =>
    profile ? { ...rest, kernels: profile.kernels } : rest
  );
  const report: BenchReport = {
    ...made,
    results: [...kernels, ...rows],
    ...skipped.length > 0 ? { skipped } : {},
  };
  if (json === "-") return printJson(report);
  await writeWhole(json, `${JSON.stringify(report, null, 2)}\n`);
  printLine(`Written to ${json}`);
}

/** Throws if a result was wrong, a row failed, or there is none. */
function judge({ kernels, works, skipped, faults }: Found): void {
  const wrong = kernels.filter(({ ms }) => ms === null);
  if (wrong.length > 0) {
    const list = wrong.map(({ name, error, allowed }) =>
      `${name} (error ${error.toExponential(1)}, allowed ${allowed})`
    );
    throw new Error(`Cannot trust ${wrong.length} results on this adapter: ${list.join(", ")}`);
  }
  const missing = faults.length > 0 || kernels.length + works.length > 0 ? faults : skipped;
  if (missing.length === 0) return;
  const reasons = new Set(missing.map(({ reason }) => reason));
  const rows = kernels.length + works.length + skipped.length;
  throw new Error(`Cannot measure ${missing.length} of ${rows} rows: ${[...reasons].join("; ")}`);
}

async function measure(options: BenchChoice): Promise<void> {
  const { json } = options;
  if (json !== "-") await checkOutFile(json, "--json");
  const found: Found = { kernels: [], works: [], skipped: [], faults: [] };
  try {
    await measureInto(found, options, json === "-" ? () => {} : printLine);
  } finally {
    // What was measured before a device was lost is worth keeping.
    await writeFound(found, options);
  }
  judge(found);
}

/** Prints or writes what was made of reports, but never over one: `--targets --json today.json torch.json` is soon typed. */
async function writeMade(made: unknown, json: string | undefined): Promise<void> {
  if (json === undefined) return;
  if (json === "-") return printJson(made);
  const isReport = await readReport(json).then(() => true, () => false);
  if (isReport) {
    throw new Error(
      `Cannot write to "${json}": it holds results of nibble bench; name another file with --json, or give --json last`,
    );
  }
  await writeWhole(json, `${JSON.stringify(made, null, 2)}\n`);
}

async function compare({ files, threshold, json }: BenchChoice): Promise<void> {
  const [before, after] = await Promise.all(files.map(readReport));
  const found = compareReports(before, after, threshold);
  await writeMade(found, json);
  if (json !== "-") {
    printOrigins(files, [before, after]);
    if (!found.isSameAdapter) {
      printLine("The adapters differ: a ratio is that of two machines as much as of two programs");
    }
    printLine(showComparison(found));
  }
  const { length } = found.rows;
  if (length === 0) {
    throw new Error(
      `Cannot compare "${files[0]}" with "${
        files[1]
      }": no row of one has the name and the shape of a row of the other`,
    );
  }
  if (json === "-") return;
  const worse = found.rows.filter(({ isWorse }) => isWorse).length;
  printLine(
    `${counted(length, "row")}, ${worse} of them wrong or slower by more than ${
      percent(threshold)
    }`,
  );
}

/** Says where each report was made, and with what. */
function printOrigins(files: readonly string[], reports: readonly BenchReport[]): void {
  for (const [index, { adapter, versions }] of reports.entries()) {
    printLine(
      [`${files[index]}: ${adapter.name}`, showVersions(versions)].filter(Boolean).join(", "),
    );
  }
}

async function listTargets({ files, json }: BenchChoice): Promise<void> {
  const reports = await Promise.all(files.map(readReport));
  const found = checkTargets(reports);
  const rows = found.map(({ work, peer, wanted, measured, isMet, command }) => {
    return { work, peer, wanted, measured, isMet, command };
  });
  await writeMade(rows, json);
  if (json === "-") return;
  printOrigins(files, reports);
  printLine(`\n${showTargets(found)}`);
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
