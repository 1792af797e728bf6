/**
 * The finished runs of ablations in a folder, so that one that was stopped goes on where it was.
 *
 * @module
 */
import { createHash } from "node:crypto";
import { writeWhole } from "../train/files/output.ts";

/** Which run it is: what differs between the runs of one ablation. */
export interface AblationSetting {
  /** The rank. */
  readonly r: number;
  /** LoRA's alpha. */
  readonly alpha: number;
  /** The names of the layers with an adapter, or "all-linear". */
  readonly modules: string;
  /** Of the adapter, the order of the data, and dropout. */
  readonly seed: number;
}

/** What a run measures. */
export interface AblationMeasures {
  /** The share of test examples that are answered exactly. */
  readonly accuracy: number;
  /** exp of the mean loss over the tokens of the test answers, or of the held-out text; the report says which. */
  readonly perplexity: number;
  /** How many numbers the adapter has. */
  readonly trainable: number;
  /** Its bytes, in 32 bits. */
  readonly adapterBytes: number;
  /** Seconds of training, without compilation and evaluation. */
  readonly seconds: number;
  /** Tokens trained on in a second, padding left out. */
  readonly tokensPerSecond: number;
  /** The most GPU memory in training, the model included. */
  readonly peakBytes: number;
  /** The mean loss of the last tenth of the steps, in nats. */
  readonly loss: number;
  /** Optimizer steps. */
  readonly steps: number;
}

/** A finished run. */
export interface AblationRun extends AblationSetting, AblationMeasures {
  /** Names all that the run's numbers depend on: model, data, options, adapter, and the setting. */
  readonly key: string;
}

const FILE = "runs.jsonl";

/** What a stored run must have, each a number. */
const NUMBERS = [
  ...["r", "alpha", "seed", "accuracy", "perplexity", "trainable", "adapterBytes", "seconds"],
  ...["tokensPerSecond", "peakBytes", "loss", "steps"],
] as const;

/** A short name for whatever can be written as JSON: the first 16 digits of its SHA-256. */
export function digest(value: unknown): string {
  return createHash("sha256").update(JSON.stringify(value)).digest("hex").slice(0, 16);
}

/** Files of a model's folder that its numbers follow from. */
function isOfModel(name: string): boolean {
  return /^(config|tokenizer|tokenizer_config)\.json$|\.safetensors$/.test(name);
}

/**
 * A name for what is in a model's folder: another path with the same files has the same one.
 *
 * @throws {Error} if the folder cannot be read
 */
export async function digestModel(folder: string): Promise<string> {
  const hash = createHash("sha256");
  try {
    const entries = await Array.fromAsync(Deno.readDir(folder));
    for (const name of entries.map((entry) => entry.name).filter(isOfModel).sort()) {
      hash.update(name);
      using file = await Deno.open(`${folder}/${name}`);
      for await (const part of file.readable) hash.update(part);
    }
  } catch (error) {
    throw new Error(
      `Cannot read the model in "${folder}": ${
        (error as Error).message
      }; wanted a folder with config.json and weights`,
      { cause: error },
    );
  }
  return hash.digest("hex").slice(0, 16);
}

function parseRun(line: string, where: string): AblationRun {
  let run: Record<string, unknown> | null = null;
  try {
    run = JSON.parse(line);
  } catch {
    // The check below says it.
  }
  const isWhole = typeof run?.key === "string" && typeof run.modules === "string" &&
    NUMBERS.every((name) => typeof run[name] === "number");
  if (isWhole) return run as unknown as AblationRun;
  throw new SyntaxError(
    `Cannot go on with ${where}: it is no finished run; remove the line, and the run is made again`,
  );
}

/** The runs in a folder, by key. Runs with other settings keep their lines, whatever is added. */
export class RunStore {
  /** The file that holds them, a JSON object a line. */
  readonly path: string;
  readonly #runs: Map<string, AblationRun>;

  private constructor(path: string, runs: Map<string, AblationRun>) {
    this.path = path;
    this.#runs = runs;
  }

  /**
   * Reads the runs in a folder, which is made if it is not there.
   *
   * @throws {Error} if the folder cannot be made or read
   * @throws {SyntaxError} if a line is no run
   */
  static async open(folder: string): Promise<RunStore> {
    const path = `${folder}/${FILE}`;
    let text = "";
    try {
      await Deno.mkdir(folder, { recursive: true });
      text = await Deno.readTextFile(path);
    } catch (error) {
      if (!(error instanceof Deno.errors.NotFound)) {
        throw new Error(
          `Cannot keep runs in "${folder}": ${
            (error as Error).message
          }; name a folder that can be written to`,
          { cause: error },
        );
      }
    }
    const runs = new Map<string, AblationRun>();
    for (const [i, line] of text.split("\n").entries()) {
      if (line.trim() === "") continue;
      const run = parseRun(line, `line ${i + 1} of "${path}"`);
      runs.set(run.key, run);
    }
    return new RunStore(path, runs);
  }

  /** How many runs there are, of all settings. */
  get size(): number {
    return this.#runs.size;
  }

  /** The run with this key, if it is finished. */
  get(key: string): AblationRun | undefined {
    return this.#runs.get(key);
  }

  /** Adds a finished run, and writes the file whole. */
  async add(run: AblationRun): Promise<void> {
    this.#runs.set(run.key, run);
    const lines = [...this.#runs.values()].map((own) => `${JSON.stringify(own)}\n`);
    await writeWhole(this.path, lines.join(""));
  }
}
