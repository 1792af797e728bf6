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

/** What `--log` writes. The file is replaced whole at each write; without a path, nothing is written. */
export class StepLog {
  readonly #path: string | undefined;
  #lines: string[] = [];

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

  /** Adds a step. */
  add(told: TrainProgress): void {
    this.#lines.push(JSON.stringify(told));
  }

  /** Writes the steps so far. */
  async write(): Promise<void> {
    if (this.#path === undefined) return;
    await writeWhole(this.#path, this.#lines.map((line) => `${line}\n`).join(""));
  }
}
