/**
 * Progress for people: a bar where there is a terminal, now and then a line where there is none.
 *
 * @module
 */
import cliProgress from "cli-progress";
import process from "node:process";
import { count, significant } from "./format.ts";

/** What is shown beside the bar. Names other than these two are shown as they are. */
export interface ProgressValues {
  loss?: number;
  tokensPerSecond?: number;
  [name: string]: number | string | undefined;
}

/** Where progress is written: the part of a Node stream that it needs. */
export interface ProgressStream {
  readonly isTTY?: boolean;
  readonly columns?: number;
  write(text: string): unknown;
}

/** What progress counts, and where it shows. */
export interface ProgressOptions {
  /** How much there is to do: steps, rows, bytes. */
  total: number;
  /** What is being done, `Fine-tuning`. */
  label: string;
  /** Whether stdout is for one JSON object: progress then goes to stderr. */
  json?: boolean;
  /** @ignore For tests. */
  stream?: ProgressStream;
  /** @ignore For tests: milliseconds since any moment. */
  now?: () => number;
}

/** A running bar. Call `stop`, or let `using` do it, before anything else is printed. */
export interface Progress extends Disposable {
  /** Says how much is done so far, of `total`. Values that are left out keep their last. */
  update(done: number, values?: ProgressValues): void;
  stop(): void;
}

/** The part of cli-progress that is used here; the package has no types. */
interface Bar {
  start(total: number, done: number, payload: unknown): void;
  update(done: number): void;
  stop(): void;
}

type BarClass = new (options: {
  stream: ProgressStream;
  format: () => string;
  linewrap: boolean;
  fps: number;
}) => Bar;

/** Plain lines are at least this far apart (except the first and the last), and a tenth of the work apart … */
const LINE_MILLISECONDS = 2000;
const LINE_SHARE = 0.1;
/** … unless nothing was said for so long. */
const SILENCE_MILLISECONDS = 30_000;

const BAR_WIDTH = 24;

/**
 * Starts to show progress.
 *
 * @example
 * ```ts ignore
 * using bar = progress({ total: steps, label: "Fine-tuning", json });
 * for await (const { step, loss } of run) bar.update(step, { loss, tokensPerSecond });
 * ```
 */
export function progress(options: ProgressOptions): Progress {
  const stream = options.stream ?? (options.json ? process.stderr : process.stdout);
  const state = new State(options);
  return stream.isTTY ? showBar(state, stream) : showLines(state, stream);
}

/** How far the work is, and how it is said. */
class State {
  readonly total: number;
  done = 0;
  #label: string;
  #values: ProgressValues = {};
  #now: () => number;
  /** The first update: the rate is taken from there on, since what comes before is mostly compilation. */
  #first: { time: number; done: number } | null = null;

  constructor({ total, label, now = () => performance.now() }: ProgressOptions) {
    this.total = total;
    this.#label = label;
    this.#now = now;
  }

  get time(): number {
    return this.#now();
  }

  get share(): number {
    return this.total > 0 ? Math.min(1, Math.max(0, this.done / this.total)) : 1;
  }

  update(done: number, values: ProgressValues): void {
    this.done = done;
    for (const [name, value] of Object.entries(values)) {
      if (value !== undefined) this.#values[name] = value;
    }
    if (done > 0) this.#first ??= { time: this.time, done };
  }

  /** `Fine-tuning  42 % 84/200 · loss 1.23 · 456 tokens/s · 0:34 left`, with a bar after the label if there is one. */
  line(bar = ""): string {
    const parts = [
      `${this.#label} ${bar}${String(Math.floor(this.share * 100)).padStart(3)} % ` +
      `${this.done}/${this.total}`,
    ];
    const { loss, tokensPerSecond, ...others } = this.#values;
    if (loss !== undefined) parts.push(`loss ${loss.toFixed(4)}`);
    if (tokensPerSecond !== undefined) parts.push(`${count(tokensPerSecond)} tokens/s`);
    for (const [name, value] of Object.entries(others)) {
      parts.push(`${name} ${typeof value === "number" ? significant(value) : value}`);
    }
    const left = this.#secondsLeft();
    if (left !== null) parts.push(`${clock(left)} left`);
    return parts.join(" · ");
  }

  #secondsLeft(): number | null {
    if (!this.#first || this.done >= this.total || this.done <= this.#first.done) return null;
    const perUnit = (this.time - this.#first.time) / (this.done - this.#first.done);
    return perUnit * (this.total - this.done) / 1000;
  }
}

/** Seconds as `0:34` or `1:02:03`. */
function clock(seconds: number): string {
  const whole = Math.ceil(seconds);
  const two = (value: number) => String(value).padStart(2, "0");
  const [hours, minutes] = [Math.floor(whole / 3600), Math.floor(whole / 60) % 60];
  return hours > 0
    ? `${hours}:${two(minutes)}:${two(whole % 60)}`
    : `${minutes}:${two(whole % 60)}`;
}

function showBar(state: State, stream: ProgressStream): Progress {
  const format = () => {
    const full = Math.round(state.share * BAR_WIDTH);
    const line = state.line(`[${"=".repeat(full)}${"-".repeat(BAR_WIDTH - full)}] `);
    // A line longer than the terminal would wrap, and every update would leave its first part behind.
    return line.slice(0, Math.max(20, (stream.columns || 80) - 1));
  };
  const { SingleBar } = cliProgress as { SingleBar: BarClass };
  const bar = new SingleBar({ stream, format, linewrap: true, fps: 5 });
  bar.start(state.total, 0, {});
  let stopped = false;
  const stop = () => {
    if (!stopped) bar.stop();
    stopped = true;
  };
  return {
    update(done, values = {}) {
      if (stopped) return;
      state.update(done, values);
      bar.update(done);
    },
    stop,
    [Symbol.dispose]: stop,
  };
}

function showLines(state: State, stream: ProgressStream): Progress {
  let lastTime = -Infinity;
  let lastShare = 0;
  let printed = -1;
  let stopped = false;
  const print = () => {
    stream.write(`${state.line()}\n`);
    lastTime = state.time;
    lastShare = state.share;
    printed = state.done;
  };
  const stop = () => {
    if (!stopped && state.done > 0 && printed !== state.done) print();
    stopped = true;
  };
  return {
    update(done, values = {}) {
      if (stopped) return;
      state.update(done, values);
      const silence = state.time - lastTime;
      const due = silence >= LINE_MILLISECONDS && state.share - lastShare >= LINE_SHARE - 1e-9;
      // The last step is printed by `stop`, after its final values are known.
      if (printed < 0 || silence >= SILENCE_MILLISECONDS || due && done < state.total) print();
    },
    stop,
    [Symbol.dispose]: stop,
  };
}
