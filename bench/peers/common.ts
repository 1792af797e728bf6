/**
 * What the scripts of peers share: arguments, the model that all of them train, timing, and the same JSON as `nibble bench --json`.
 * It imports nothing: run.ts copies it beside a script, to where the peer is installed.
 *
 * @module
 */

/** What was measured, as in nibble's own reports. */
export interface PeerRow {
  readonly name: string;
  readonly shape: string;
  readonly ms: number;
  readonly minMs: number;
  readonly maxMs: number;
  readonly gflops?: number;
  readonly gbps?: number;
  readonly tokensPerSecond?: number;
  readonly coldMs?: number;
}

/** What is measured. */
export interface PeerChoice {
  /** Lengths of square products and of rows. */
  readonly sizes: readonly number[];
  /** Models that are trained, by the end of their names. */
  readonly gpt: readonly GptShape[];
  /** A GGUF file, for llama.cpp. */
  readonly model: string | undefined;
  /** Tokens of an answer, for llama.cpp. */
  readonly answer: number;
}

/** The sizes of a GPT that is trained from random weights. */
export interface GptShape {
  readonly name: string;
  readonly layers: number;
  readonly dim: number;
  readonly heads: number;
  readonly batch: number;
  readonly length: number;
  readonly vocab: number;
}

const GPTS: readonly GptShape[] = [
  { name: "d64", layers: 2, dim: 64, heads: 4, batch: 2, length: 32, vocab: 256 },
  { name: "d512", layers: 8, dim: 512, heads: 8, batch: 8, length: 256, vocab: 8192 },
];

const FLAGS = ["--sizes", "--gpt", "--model", "--answer"];

/** The flags' values, each behind its flag. */
function readFlags(args: readonly string[]): Map<string, string> {
  const found = new Map<string, string>();
  for (let i = 0; i < args.length; i += 2) {
    if (!FLAGS.includes(args[i])) {
      throw new RangeError(`Cannot read "${args[i]}": wanted one of ${FLAGS.join(", ")}`);
    }
    if (args[i + 1] === undefined) {
      throw new RangeError(`Cannot read ${args[i]}: its value is missing`);
    }
    found.set(args[i], args[i + 1]);
  }
  return found;
}

/** A whole number above 0. */
function lengthOf(flag: string, text: string): number {
  const value = Number(text);
  if (Number.isInteger(value) && value > 0) return value;
  throw new RangeError(`Cannot read ${flag}: found "${text}", wanted a whole number ≥ 1`);
}

/**
 * Reads `--sizes 512,1024`, `--gpt d64,d512`, `--model FILE` and `--answer 256`.
 *
 * @throws {RangeError} if there is anything else
 */
export function readChoice(args: readonly string[] = Deno.args): PeerChoice {
  const flags = readFlags(args);
  const list = (flag: string, usual: string) =>
    (flags.get(flag) ?? usual).split(",").filter(Boolean);
  return {
    sizes: list("--sizes", "512").map((size) => lengthOf("--sizes", size)),
    gpt: list("--gpt", "d64").map((name) => {
      const found = GPTS.find((own) => own.name === name);
      if (found) return found;
      const names = GPTS.map((own) => own.name).join(", ");
      throw new RangeError(`Cannot read --gpt: found "${name}", wanted some of ${names}`);
    }),
    model: flags.get("--model"),
    answer: lengthOf("--answer", flags.get("--answer") ?? "256"),
  };
}

/** The version of a package that run.ts has installed. */
export function versionOf(name: string): string {
  return JSON.parse(Deno.readTextFileSync(`node_modules/${name}/package.json`)).version;
}

/** Numbers of mean zero from a seed, good enough for speed. */
export function randomNumbers(count: number, seed: number, deviation = 1): Float32Array {
  const numbers = new Float32Array(count);
  const range = 2 * Math.sqrt(3) * deviation;
  let state = (seed * 2654435761 + 12345) >>> 0;
  for (let i = 0; i < count; i++) {
    state = (Math.imul(state, 1664525) + 1013904223) >>> 0;
    numbers[i] = (state / 2 ** 32 - 0.5) * range;
  }
  return numbers;
}

/** Token numbers below a bound. */
export function randomIds(count: number, below: number, seed: number): Int32Array {
  return Int32Array.from(
    randomNumbers(count, seed),
    (own) => Math.floor((own / (2 * Math.sqrt(3)) + 0.5) * below),
  );
}

/** The parameters of a GPT, by name, with their shapes. Output and input embedding are the same. */
export function gptParameters(shape: GptShape): Map<string, Float32Array> {
  const { layers, dim, length, vocab } = shape;
  const found = new Map<string, Float32Array>();
  let seed = 1;
  const normal = (name: string, count: number, deviation = 0.02) =>
    found.set(name, randomNumbers(count, seed++, deviation));
  const full = (name: string, count: number, value: number) =>
    found.set(name, new Float32Array(count).fill(value));
  normal("wte", vocab * dim);
  normal("wpe", length * dim);
  for (let i = 0; i < layers; i++) {
    for (const norm of ["ln1", "ln2"]) {
      full(`${i}.${norm}.g`, dim, 1);
      full(`${i}.${norm}.b`, dim, 0);
    }
    for (const name of ["q", "k", "v", "o"]) {
      normal(`${i}.${name}.w`, dim * dim);
      full(`${i}.${name}.b`, dim, 0);
    }
    normal(`${i}.fc.w`, 4 * dim * dim);
    full(`${i}.fc.b`, 4 * dim, 0);
    normal(`${i}.proj.w`, 4 * dim * dim);
    full(`${i}.proj.b`, dim, 0);
  }
  full("lnf.g", dim, 1);
  full("lnf.b", dim, 0);
  return found;
}

/** The axes of a parameter. */
export function shapeOf(name: string, { dim, length, vocab }: GptShape): number[] {
  if (name === "wte") return [vocab, dim];
  if (name === "wpe") return [length, dim];
  if (name.endsWith("fc.w")) return [dim, 4 * dim];
  if (name.endsWith("proj.w")) return [4 * dim, dim];
  if (name.endsWith("fc.b")) return [4 * dim];
  return name.endsWith(".w") ? [dim, dim] : [dim];
}

/** Rows that are one for the token's place, and zero elsewhere. */
export function oneHot(ids: Int32Array, vocab: number): Float32Array {
  const rows = new Float32Array(ids.length * vocab);
  ids.forEach((id, row) => rows[row * vocab + id] = 1);
  return rows;
}

/** What is added to the scores of a token's attention: nothing for what it may see. */
export function causalMask(length: number): Float32Array {
  return Float32Array.from(
    { length: length * length },
    (_, i) => i % length > Math.floor(i / length) ? -1e9 : 0,
  );
}

const SAMPLES = 5;
const SAMPLE_MILLISECONDS = 400;

/** Times of one run, until the device is done: `run` runs so often, and waits. As bench/end_to_end/sampling.ts does it. */
export async function sample(
  run: (count: number) => Promise<void>,
): Promise<{ ms: number; minMs: number; maxMs: number }> {
  const timed = async (count: number) => {
    const start = performance.now();
    await run(count);
    return performance.now() - start;
  };
  let count = 1;
  let spent = await timed(count);
  while (spent < SAMPLE_MILLISECONDS / 2) {
    count *= 2;
    spent = await timed(count);
  }
  const found: number[] = [];
  for (let i = 0; i < SAMPLES; i++) found.push(await timed(count) / count);
  found.sort((a, b) => a - b);
  return { ms: found[SAMPLES >> 1], minMs: found[0], maxMs: found.at(-1)! };
}

/** Collects rows, and what could not be measured with the reason. */
export class PeerReport {
  readonly #results: PeerRow[] = [];
  readonly #skipped: { name: string; reason: string }[] = [];

  /** Measures a row; what it throws is the reason why it is missing. */
  async row(name: string, shape: string, measure: () => Promise<Omit<PeerRow, "name" | "shape">>) {
    try {
      this.#results.push({ name, shape, ...await measure() });
    } catch (error) {
      this.skip(`${name} ${shape}`, error);
    }
  }

  /** Says that something is missing, and why. */
  skip(name: string, reason: unknown) {
    const text = reason instanceof Error ? reason.message : String(reason);
    this.#skipped.push({ name, reason: text.split("\n")[0] });
  }

  /** Prints it as JSON. */
  print(adapter: string, versions: Record<string, string>) {
    const report = {
      adapter: { name: adapter },
      versions: { ...versions, deno: Deno.version.deno },
      results: this.#results,
      skipped: this.#skipped,
    };
    Deno.stdout.writeSync(new TextEncoder().encode(`${JSON.stringify(report, null, 2)}\n`));
  }
}

/** Measures one thing of one size. */
type Measurement<Size> = (size: Size) => () => Promise<Omit<PeerRow, "name" | "shape">>;

/** Measures what `args` choose, with a peer's products, softmax and steps of a GPT. */
export async function measureChoice(
  report: PeerReport,
  measure: {
    readonly matmul: Measurement<number>;
    readonly softmax: Measurement<number>;
    readonly gpt: Measurement<GptShape>;
  },
): Promise<void> {
  const { sizes, gpt } = readChoice();
  for (const n of sizes) {
    await report.row("matmul nn", `M=${n} N=${n} K=${n}`, measure.matmul(n));
    await report.row("softmax forward", `rows=${n} columns=${n}`, measure.softmax(n));
  }
  for (const shape of gpt) {
    const { name, batch, length } = shape;
    const row = `full gpt-${name} ${batch}x${length}`;
    await report.row(row, `batch=${batch} length=${length}`, measure.gpt(shape));
  }
}

/** The name of the WebGPU adapter, which the libraries use too. */
export async function adapterName(): Promise<string> {
  const adapter = await navigator.gpu?.requestAdapter({ powerPreference: "high-performance" });
  return adapter?.info.description || adapter?.info.device || "none";
}

/** The figures of a training step. */
export function stepRow(
  { batch, length }: GptShape,
  times: { ms: number; minMs: number; maxMs: number },
  coldMs: number,
): Omit<PeerRow, "name" | "shape"> {
  return { ...times, tokensPerSecond: 1000 * batch * length / times.ms, coldMs };
}
