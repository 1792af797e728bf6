/** The log of a training run: a line of JSON for each step. */
import { writeWhole } from "../train/files/output.ts";
import type { TrainProgress } from "../train/loop.ts";

function stepOf(line: string): number {
  try {
    return Number(JSON.parse(line).step);
  } catch {
    return NaN;
  }
}

/** Milliseconds between two writes while steps are added. */
const WRITE_MILLISECONDS = 1000;

/** What `--log` writes, while the run goes on. The first write replaces the file whole; without a path, nothing is written. */
export class StepLog {
  readonly #path: string | undefined;
  #lines: string[] = [];
  /** How many of the lines the file has, or null before the first write. */
  #written: number | null = null;
  #last = -Infinity;

  /** Reads nothing and writes nothing yet. */
  constructor(path: string | undefined) {
    this.#path = path;
  }

  /** Takes over what an earlier run logged about the steps up to this one. */
  async resume(step: number): Promise<void> {
    if (this.#path === undefined) return;
    let text: string;
    try {
      text = await Deno.readTextFile(this.#path);
    } catch {
      return;
    }
    this.#lines = text.split("\n").filter((line) => stepOf(line) <= step);
  }

  /** Adds a step, and writes if it is time. */
  async add(told: TrainProgress): Promise<void> {
    this.#lines.push(JSON.stringify(told));
    if (performance.now() - this.#last >= WRITE_MILLISECONDS) await this.write();
  }

  /** Writes the steps so far. */
  async write(): Promise<void> {
    if (this.#path === undefined) return;
    const text = this.#lines.slice(this.#written ?? 0).map((line) => `${line}\n`).join("");
    if (this.#written === null) await writeWhole(this.#path, text);
    else await Deno.writeTextFile(this.#path, text, { append: true });
    this.#written = this.#lines.length;
    this.#last = performance.now();
  }
}
