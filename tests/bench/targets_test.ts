import { WORKS } from "../../bench/end_to_end/run.ts";
import { KERNEL_CASES } from "../../bench/kernels.ts";
import type { BenchReport } from "../../bench/report.ts";
import { checkTargets, showTargets, TARGETS } from "../../bench/targets.ts";
import { assert, assertEquals } from "../assert.ts";

const adapter = { name: "a card" };
const SQUARE = "M=4096 N=4096 K=4096";

/** The one target whose work begins with this. */
function find(reports: BenchReport[], start: string) {
  const found = checkTargets(reports).filter(({ work }) => work.startsWith(start));
  assertEquals(found.length, 1, start);
  return found[0];
}

Deno.test("targets are measured against rows that the bench has", () => {
  for (const { command, work } of TARGETS) {
    const [, flag, text] = /^bench --(end-to-end --filter|kernel) "(.*)"$/.exec(command)!;
    const known = flag === "kernel"
      ? text.split(",").every((part) => KERNEL_CASES.some(({ kernel }) => kernel.startsWith(part)))
      : WORKS.some(({ name }) => name === text || name.startsWith(text));
    assert(known, `${work}: ${command}`);
  }
  // With every row of the bench at hand, nothing is missing.
  const show = (sizes: Readonly<Record<string, number>>) =>
    Object.entries(sizes).map(([name, length]) => `${name}=${length}`).join(" ");
  const figures = {
    ms: 1,
    compileMs: 1,
    gflops: 1,
    gbps: 1,
    tokensPerSecond: 1,
    peakBytes: 1,
  };
  const results = [
    ...KERNEL_CASES.flatMap(({ kernel, gpu }) =>
      gpu.map((sizes) => ({ name: kernel, shape: show(sizes), ...figures }))
    ),
    ...WORKS.map(({ name }) => ({ name, shape: "", ...figures })),
  ];
  const all = checkTargets([
    { adapter, versions: { nibble: "1" }, results },
    { adapter, versions: { torch: "2" }, results },
  ]);
  assertEquals(all.filter(({ isMet }) => isMet === null).map(({ work }) => work), []);
});

Deno.test("checkTargets() says what was reached, and what was not", () => {
  const row = { name: "qlora smollm2 r16-all 4x512", shape: "", ms: 80, tokensPerSecond: 25_600 };
  const bytes = { peakBytes: 3000 * 2 ** 20 };
  const report = { adapter, versions: { nibble: "1" }, results: [{ ...row, ...bytes }] };
  const { measured, wanted, isMet } = find([report], "QLoRA step, SmolLM2");
  assertEquals([measured, wanted, isMet], ["25,600 tok/s", "25,000 tok/s", true]);
  const memory = find([report], "peak GPU memory");
  assertEquals([memory.measured, memory.wanted, memory.isMet], ["3,000 MiB", "2,400 MiB", false]);
  assertEquals(find([report], "matmul of 4096").isMet, null);
});

Deno.test("checkTargets() takes shares of nibble's own rows, and of torch's, each by its shape", () => {
  const times = (ms: Record<string, number>, shape: string) =>
    Object.entries(ms).map(([name, own]) => ({ name, shape, ms: own }));
  const nibble = {
    adapter,
    versions: { nibble: "1" },
    results: [
      ...times({ "matmul nf4 forward": 4, "matmul nf4 backward": 5 }, SQUARE),
      ...times({ "matmul nt": 3, "matmul nn": 5 }, SQUARE),
      ...times({ "matmul nt": 2 }, "M=2048 N=16 K=4096"),
      ...times({ "gemv nf4": 0.02 }, "M=1 N=14336 K=4096"),
    ],
  };
  const torch = {
    adapter,
    versions: { torch: "2" },
    results: times({ "matmul nt": 1 }, "M=2048 N=16 K=4096"),
  };
  assertEquals(find([nibble, torch], "NF4 matmul").measured, "forward 0.75, backward 1.00");
  assertEquals(find([nibble, torch], "LoRA's products, r 16").measured, "down 0.50");
  assertEquals(find([nibble], "LoRA's products, r 16").measured, "");
  assertEquals(find([nibble], "NF4 matrix-vector").measured, "11.7 TB/s");
  assertEquals(find([nibble], "NF4 matrix-vector").wanted, "10.0 TB/s, 7.0 TB/s");
  const lines = showTargets(checkTargets([nibble])).split("\n");
  assertEquals(lines.length, 2 + TARGETS.length);
  assert(lines.every((line) => line.split(" | ").length === 5), lines.join("\n"));
});
