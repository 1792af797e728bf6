/**
 * What nibble shall reach on an NVIDIA H100, beside what its peers reach there, and what a run of the bench found.
 *
 * @module
 */
import type { BenchReport, BenchRow } from "./report.ts";

/** A row of a report, with the figures that whole steps have too. */
type Row = BenchRow & {
  readonly tokensPerSecond?: number;
  readonly compileMs?: number;
};

/** Finds the rows of nibble's reports, and those of torch's. */
interface Found {
  own(name: string, shape?: string): Row | undefined;
  torch(name: string, shape?: string): Row | undefined;
}

/** One figure: what was measured, what is wanted, and whether more or less of it is better. */
interface Figure {
  readonly value: (found: Found) => number | null;
  readonly wanted: number;
  readonly better: "more" | "less";
  readonly show: (value: number) => string;
}

/** A piece of work, with one figure or several. */
export interface Target {
  /** The work, in words. */
  readonly work: string;
  /** What peers need for it. */
  readonly peer: string;
  /** The figures. */
  readonly figures: readonly Figure[];
  /** What measures them. */
  readonly command: string;
}

const MEBI = 2 ** 20;

const whole = (unit: string) => (value: number) =>
  `${Math.round(value).toLocaleString("en-US")} ${unit}`.trim();
const digits = (count: number, unit: string) => (value: number) =>
  `${value.toFixed(count)} ${unit}`.trim();

function endToEnd(work: string, peer: string, name: string, figures: Figure[]): Target {
  return { work, peer, figures, command: `bench --end-to-end --filter "${name}"` };
}

function tokens(name: string, wanted: number): Figure {
  const value = (found: Found) => found.own(name)?.tokensPerSecond ?? null;
  return { value, wanted, better: "more", show: whole("tok/s") };
}

/** What tensors held at most. */
function memory(name: string, wanted: number): Figure {
  const value = (found: Found) => {
    const bytes = found.own(name)?.peakBytes;
    return bytes === undefined ? null : bytes / MEBI;
  };
  return { value, wanted, better: "less", show: whole("MiB") };
}

function milliseconds(name: string, wanted: number): Figure {
  const value = (found: Found) => found.own(name)?.ms ?? null;
  return { value, wanted, better: "less", show: digits(2, "ms") };
}

/** Seconds of compiling in a row's first run: they mean something where the driver has not seen the kernels. */
function compiling(name: string, wanted: number): Figure {
  const value = (found: Found) => {
    const ms = found.own(name)?.compileMs;
    return ms === undefined ? null : ms / 1000;
  };
  return { value, wanted, better: "less", show: digits(1, "s") };
}

function kernels(work: string, peer: string, names: string, figures: Figure[]): Target {
  return { work, peer, figures, command: `bench --kernel "${names}"` };
}

/** A rate of one row, times a factor. */
function rate(
  name: string,
  shape: string,
  key: "gflops" | "gbps",
  [wanted, factor, unit]: readonly [number, number, string],
): Figure {
  const value = (found: Found) => {
    const own = found.own(name, shape)?.[key];
    return own === undefined ? null : own * factor;
  };
  return { value, wanted, better: "more", show: digits(1, unit) };
}

/** Terabytes a second of a matrix-vector product, as if its weights were in 32 bits. */
function asIfF32(name: string, n: number, k: number, wanted: number): Figure {
  const value = (found: Found) => {
    const ms = found.own(name, `M=1 N=${n} K=${k}`)?.ms;
    return ms ? 4 * n * k / (ms * 1e9) : null;
  };
  return { value, wanted, better: "more", show: digits(1, "TB/s") };
}

/** How many times as fast a row is as another one, nibble's or torch's. */
function ratio(
  from: readonly [name: string, shape: string],
  to: readonly [whose: "own" | "torch", name: string],
  wanted: number,
  label = "",
): Figure {
  const value = (found: Found) => {
    const [own, other] = [found.own(...from)?.ms, found[to[0]](to[1], from[1])?.ms];
    return own && other ? other / own : null;
  };
  return { value, wanted, better: "more", show: (share) => `${label} ${share.toFixed(2)}`.trim() };
}

/** Bandwidth as a share of that of a plain copy. */
function ofCopy(name: string, shape: string, wanted: number): Figure {
  const value = (found: Found) => {
    const copy = found.own("copy", "rows=4096 columns=4096")?.gbps;
    const own = found.own(name, shape)?.gbps;
    return copy && own ? own / copy : null;
  };
  return { value, wanted, better: "more", show: (share) => `${name} ${share.toFixed(2)}` };
}

const SQUARE = "M=4096 N=4096 K=4096";
const FEW = "M=512 N=4096 K=4096";
const ROWS = "rows=4096 columns=4096";
const HEADS = "batch=4 length=1024 heads=16 kvHeads=16 D=64";
const FIRST = "qlora smollm2 r16-all 4x512";
const LORA = "matmul nn,matmul nt,matmul tn";
const CHECKPOINTED = "qlora llama7b r16-all checkpointed 1x512";
const LARGE = "qlora llama7b r8-qv 1x512";

/** The products of an adapter of rank r on a layer of 4,096 by 4,096, for 2,048 tokens, and those of its gradients, against torch. */
function loraProducts(r: number): Target {
  const product = (layout: "nn" | "nt" | "tn", shape: string, label: string) =>
    ratio([`matmul ${layout}`, shape], ["torch", `matmul ${layout}`], 0.9, label);
  return kernels(`LoRA's products, r ${r}`, "as a share of torch's", LORA, [
    product("nt", `M=2048 N=${r} K=4096`, "down"),
    product("nt", `M=2048 N=4096 K=${r}`, "up"),
    product("nn", `M=2048 N=${r} K=4096`, "dz"),
    product("nn", `M=2048 N=4096 K=${r}`, "dx"),
    product("tn", `M=${r} N=4096 K=2048`, "dA"),
    product("tn", `M=4096 N=${r} K=2048`, "dB"),
  ]);
}

/** All of them. The peers' figures were measured on one H100, in f32, each in its own best way. */
export const TARGETS: readonly Target[] = [
  endToEnd(
    "QLoRA step, SmolLM2-135M shape, NF4 with double quantization, r 16 on all 7 linear layers, 4×512 tokens",
    "transformers, PEFT and bitsandbytes 7,549 tok/s (compiled for minutes: 19,357)",
    FIRST,
    [tokens(FIRST, 25_000)],
  ),
  endToEnd("compiling for that step, on a machine that never did", "", FIRST, [
    compiling(FIRST, 5),
  ]),
  endToEnd("as the first row, r 8 on q and v", "11,596 tok/s", "qlora smollm2 r8-qv 4x512", [
    tokens("qlora smollm2 r8-qv 4x512", 30_000),
  ]),
  endToEnd("the same, r 16 on all, 16×512", "25,763 tok/s", "qlora smollm2 r16-all 16x512", [
    tokens("qlora smollm2 r16-all 16x512", 32_000),
  ]),
  endToEnd("the same, r 8 on q and v, 1×128", "576 tok/s", "qlora smollm2 r8-qv 1x128", [
    tokens("qlora smollm2 r8-qv 1x128", 8000),
  ]),
  endToEnd("full fine-tuning, 4×512", "19,320 tok/s", "full smollm2 4x512", [
    tokens("full smollm2 4x512", 22_000),
  ]),
  endToEnd(
    "peak GPU memory of the first row: of tensors",
    "5,061 MiB (compiled 3,626)",
    FIRST,
    [memory(FIRST, 2400)],
  ),
  endToEnd(
    "QLoRA step, Llama-2-7B shape, r 16 on all, 1×512, checkpointed",
    "885 tok/s, 5,376 MiB",
    CHECKPOINTED,
    [tokens(CHECKPOINTED, 900), memory(CHECKPOINTED, 5376)],
  ),
  endToEnd("the same, r 8 on q and v, not checkpointed", "1,393 tok/s, 8,426 MiB", LARGE, [
    tokens(LARGE, 1400),
    memory(LARGE, 8400),
  ]),
  endToEnd(
    "decode, SmolLM2-135M shape, batch 1",
    "bitsandbytes 25 tok/s, llama.cpp on Vulkan 223 to 358",
    "decode smollm2",
    [tokens("decode smollm2", 700)],
  ),
  endToEnd("decode, Llama-2-7B shape in NF4, batch 1", "bitsandbytes 28 tok/s", "decode llama7b", [
    tokens("decode llama7b", 120),
  ]),
  endToEnd(
    "prefill of 512 tokens, SmolLM2-135M shape",
    "llama.cpp on Vulkan 23,600 tok/s, with tensor cores",
    "prefill smollm2",
    [tokens("prefill smollm2", 20_000)],
  ),
  endToEnd(
    "GPT training step, d 512, 8 layers, 8 heads, 8×256 tokens, vocabulary 8192",
    "jax-js 404.7 ms, tfjs none in 120 s",
    "full gpt-d512 8x256",
    [milliseconds("full gpt-d512 8x256", 40)],
  ),
  endToEnd(
    "GPT training step, d 64, 2 layers, 4 heads, 2×32 tokens, vocabulary 256",
    "jax-js 92.8 ms, tfjs 100.4 ms",
    "full gpt-d64 2x32",
    [milliseconds("full gpt-d64 2x32", 3)],
  ),
  kernels(
    "matmul of 4096³ in f32: nn, nt, tn",
    "torch 51.6 TFLOP/s, jax-js 11.4, tfjs 5.8",
    "matmul nn,matmul nt,matmul tn",
    ["nn", "nt", "tn"].map((layout) =>
      rate(`matmul ${layout}`, SQUARE, "gflops", [41, 1e-3, "TFLOP/s"])
    ),
  ),
  kernels(
    "NF4 matrix-vector product, as if in f32: 14336×4096, 4096×4096",
    "torch in f32 2.8 and 2.3 TB/s",
    "gemv nf4",
    [asIfF32("gemv nf4", 14_336, 4096, 10), asIfF32("gemv nf4", 4096, 4096, 7)],
  ),
  kernels("the same with double quantization, 14336×4096", "", "gemv nf4-dq", [
    asIfF32("gemv nf4-dq", 14_336, 4096, 9),
  ]),
  kernels(
    "the same in INT8 by rows, and in symmetric INT4 by groups of 64, 14336×4096",
    "",
    "gemv int",
    [
      asIfF32("gemv int8", 14_336, 4096, 10),
      asIfF32("gemv int4-symmetric", 14_336, 4096, 13),
    ],
  ),
  kernels("NF4 matmul, M 512 and 4096, as a share of nibble's own in f32", "", "matmul", [
    ...[FEW, SQUARE].map((shape) =>
      ratio(["matmul nf4 forward", shape], ["own", "matmul nt"], 0.93, "forward")
    ),
    ...[FEW, SQUARE].map((shape) =>
      ratio(["matmul nf4 backward", shape], ["own", "matmul nn"], 0.93, "backward")
    ),
  ]),
  kernels(
    "rows of 4096 (cross-entropy: 32,000), as a share of a copy's bandwidth",
    "torch, eager",
    "copy,softmax,rms norm,layer norm,cross entropy",
    [
      ...["softmax", "rms norm", "layer norm"].flatMap((name) =>
        ["forward", "backward"].map((pass) => ofCopy(`${name} ${pass}`, ROWS, 0.88))
      ),
      ...["forward", "backward"].map((pass) =>
        ofCopy(`cross entropy ${pass}`, "rows=2048 columns=32000", 0.88)
      ),
    ],
  ),
  kernels("attention, D 64, T 1024, in f32: forward", "as a share of torch's SDPA", "attention", [
    ratio(["attention forward", HEADS], ["torch", "attention forward"], 0.75),
  ]),
  kernels("the same, backward", "as a share of torch's SDPA", "attention", [
    ratio(["attention backward", HEADS], ["torch", "attention backward"], 0.6),
  ]),
  ...[8, 16, 32, 64].map(loraProducts),
];

/** Whole steps at the lengths that software adapters run are not the work that a row is named after. */
function isTiny({ shape }: BenchRow): boolean {
  return shape.endsWith(" tiny");
}

function finder(reports: readonly BenchReport[]): Found {
  const find = (package_: string) => (name: string, shape?: string) =>
    reports.filter(({ versions }) => package_ in versions).flatMap(({ results }) => results)
      .find((row) =>
        row.name === name && (shape === undefined ? !isTiny(row) : row.shape === shape)
      );
  return { own: find("nibble"), torch: find("torch") };
}

/** A target, with what reports say of it. */
export interface CheckedTarget extends Target {
  /** What is wanted, in words. */
  readonly wanted: string;
  /** What was measured, in words; empty where no report has it. */
  readonly measured: string;
  /** Whether all of it was reached; null where something is missing, and nothing that is there fell short. */
  readonly isMet: boolean | null;
}

/**
 * Compares the targets with reports.
 *
 * @param reports nibble's, and where torch is a peer those of peers/peer_torch.py
 */
export function checkTargets(reports: readonly BenchReport[]): CheckedTarget[] {
  const found = finder(reports);
  return TARGETS.map((target) => {
    const values = target.figures.map((figure) => figure.value(found));
    const met = target.figures.map(({ wanted, better }, i) => {
      const value = values[i];
      return value === null ? null : better === "more" ? value >= wanted : value <= wanted;
    });
    const shown = target.figures.map(({ show }, i) => values[i] === null ? "" : show(values[i]!));
    const wanted = new Set(target.figures.map((figure) => {
      // A label before the number says which figure it is; what is wanted is the same for all.
      return figure.show(figure.wanted).replace(/^[a-zA-Z -]+ (?=\d)/, "");
    }));
    return {
      ...target,
      wanted: [...wanted].join(", "),
      measured: shown.filter(Boolean).join(", "),
      isMet: met.includes(false) ? false : met.includes(null) ? null : true,
    };
  });
}

/** The targets as a table in Markdown. */
export function showTargets(targets: readonly CheckedTarget[]): string {
  const lines = targets.map(({ work, peer, wanted, measured, isMet, command }) => {
    const mark = isMet === false ? " (missed)" : "";
    return `| ${work} | ${peer} | ${wanted} | ${measured}${mark} | \`${command}\` |`;
  });
  const head = ["| Work | Peer | Wanted | Measured | Command |", "| --- | --- | --- | --- | --- |"];
  return [...head, ...lines].join("\n");
}
