/** `nibble bench`: how fast each kernel is on this machine, after a check against its reference. */
import { z } from "zod";
import { benchKernels, KERNEL_CASES, type KernelTiming } from "../bench/kernels.ts";
import { openDevice } from "../core/device.ts";
import { writeWhole } from "../train/files/output.ts";
import { type Command, defineCommand } from "./command.ts";
import { jsonFile } from "./options.ts";
import { paint, printLine, row, significant } from "./print.ts";

/** Rows are printed as they come, so widths are known beforehand; a longer shape only pushes its own row. */
const WIDTHS = [Math.max(...KERNEL_CASES.map(({ kernel }) => kernel.length)), 36, -9, -8, -8, -9];

const NAMES = [...new Set(KERNEL_CASES.map(({ kernel }) => kernel))].join(", ");

function showTiming({ kernel, shape, milliseconds, gflops, gbs, error }: KernelTiming): string {
  const time = milliseconds === null
    ? paint("red", "WRONG".padStart(9))
    : significant(milliseconds);
  const rates = [gflops, gbs].map((rate) => rate === undefined ? "" : significant(rate));
  return row([kernel, shape, time, ...rates, error.toExponential(1)], WIDTHS);
}

const bench: Command = defineCommand({
  name: "bench",
  summary: "Time each kernel on this machine, after a check against its reference",
  examples: [
    ["nibble bench", "every kernel, at sizes that suit the adapter"],
    ["nibble bench --filter matmul --json matmul.json", "some of them, and a file of the results"],
  ],
  options: z.strictObject({
    filter: z.string().min(1).optional()
      .refine((part) => !part || KERNEL_CASES.some(({ kernel }) => kernel.includes(part)), {
        error: ({ input }) => `found ${JSON.stringify(input)}, wanted a part of ${NAMES}`,
      })
      .meta({ description: "only kernels whose name contains this" }),
    repeats: z.int().min(1).optional()
      .describe("runs in each timed stretch; by default as many as time well"),
    sizes: z.enum(["tiny", "software", "gpu"]).optional()
      .describe("lengths of tests, of a small, or of a large model; by default as the adapter is"),
    json: jsonFile(),
  }),
  async run({ filter, repeats, sizes, json }) {
    using device = await openDevice();
    printLine(`${device.adapter.name} (${device.adapter.type}), Deno ${Deno.version.deno}`);
    printLine(row(["kernel", "shape", "ms", "GFLOP/s", "GB/s", "error"], WIDTHS));
    const onResult = (result: KernelTiming) => printLine(showTiming(result));
    const results = await benchKernels(device, { filter, repeats, sizes, onResult });
    if (json !== undefined) {
      const report = { adapter: device.adapter, deno: Deno.version.deno, results };
      await writeWhole(json, `${JSON.stringify(report, null, 2)}\n`);
      printLine(`Written to ${json}`);
    }
    const wrong = results.filter(({ milliseconds }) => milliseconds === null);
    if (wrong.length === 0) return;
    const list = wrong.map(({ kernel, error, allowed }) =>
      `${kernel} (error ${error.toExponential(1)}, allowed ${allowed})`
    );
    throw new Error(`Cannot trust ${wrong.length} results on this adapter: ${list.join(", ")}`);
  },
});
export default bench;
