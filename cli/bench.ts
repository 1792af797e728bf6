/** `nibble bench`: how fast kernels and whole steps are on this machine. */
import { z } from "zod";
import { benchEndToEnd, WORKS } from "../bench/end_to_end/run.ts";
import { benchKernels, KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import { openDevice } from "../core/device.ts";
import { writeWhole } from "../train/files/output.ts";
import { KERNEL_HEAD, showKernel, showProfile, showWork, WORK_HEAD } from "./bench_tables.ts";
import { type Command, defineCommand } from "./command.ts";
import { jsonFile } from "./options.ts";
import { printLine } from "./print.ts";

const KERNELS = [...new Set(KERNEL_CASES.map(({ kernel }) => kernel))];

const OPTIONS = z.strictObject({
  endToEnd: z.boolean().default(false)
    .describe("whole training steps and answers, on models with random weights"),
  filter: z.string().min(1).optional()
    .meta({ description: "only kernels, or whole steps, whose name contains this" }),
  profile: z.boolean().default(false)
    .describe("with --end-to-end: also say which kernels a step spends its time in"),
  repeats: z.int().min(1).optional()
    .describe("runs in each timed stretch; by default as many as time well"),
  sizes: z.enum(["tiny", "software", "gpu"]).optional()
    .describe("lengths of tests, of a small, or of a large model; by default as the adapter is"),
  json: jsonFile(),
}).superRefine(({ endToEnd, filter, profile }, context) => {
  const names = endToEnd ? WORKS.map(({ name }) => name) : KERNELS;
  if (filter !== undefined && !names.some((name) => name.includes(filter))) {
    context.addIssue({
      code: "custom",
      path: ["filter"],
      message: `found ${JSON.stringify(filter)}, wanted a part of ${names.join(", ")}`,
    });
  }
  if (profile && !endToEnd) {
    context.addIssue({ code: "custom", path: ["profile"], message: "wanted --end-to-end with it" });
  }
});

type BenchChoice = z.output<typeof OPTIONS>;

async function writeReport(path: string | undefined, report: unknown): Promise<void> {
  if (path === undefined) return;
  await writeWhole(path, `${JSON.stringify(report, null, 2)}\n`);
  printLine(`Written to ${path}`);
}

async function benchWorks({ filter, profile, sizes, json }: BenchChoice): Promise<void> {
  using device = await openDevice();
  const { adapter } = device;
  printLine(`${adapter.name} (${adapter.type}), Deno ${Deno.version.deno}`);
  printLine(WORK_HEAD);
  const results = await benchEndToEnd(openDevice, {
    filter,
    profile,
    sizes: sizes && (sizes === "gpu" ? "full" : "tiny"),
    onResult: (result) => {
      printLine(showWork(result));
      if (result.profile) printLine(`${showProfile(result.profile)}\n`);
    },
  });
  const rows = results.map(({ profile, ...rest }) => ({ ...rest, kernels: profile?.kernels }));
  await writeReport(json, { adapter, deno: Deno.version.deno, results: rows });
}

async function benchOnKernels({ filter, repeats, sizes, json }: BenchChoice): Promise<void> {
  using device = await openDevice();
  const { adapter } = device;
  printLine(`${adapter.name} (${adapter.type}), Deno ${Deno.version.deno}`);
  printLine(KERNEL_HEAD);
  const onResult = (result: KernelTiming) => printLine(showKernel(result));
  const results = await benchKernels(device, { filter, repeats, sizes, onResult });
  await writeReport(json, { adapter, deno: Deno.version.deno, results });
  const wrong = results.filter(({ milliseconds }) => milliseconds === null);
  if (wrong.length === 0) return;
  const list = wrong.map(({ kernel, error, allowed }) =>
    `${kernel} (error ${error.toExponential(1)}, allowed ${allowed})`
  );
  throw new Error(`Cannot trust ${wrong.length} results on this adapter: ${list.join(", ")}`);
}

const bench: Command = defineCommand({
  name: "bench",
  summary: "Time kernels, each checked against its reference, or whole training steps and answers",
  examples: [
    ["nibble bench", "every kernel, at sizes that suit the adapter"],
    ["nibble bench --filter matmul --json matmul.json", "some of them, and a file of the results"],
    ["nibble bench --end-to-end --filter qlora", "steps of QLoRA on models of 135M and 7B weights"],
  ],
  options: OPTIONS,
  run: (options) => options.endToEnd ? benchWorks(options) : benchOnKernels(options),
});
export default bench;
