/**
 * The steps that the weights of a plain model lie on, in a file beside it: written where the model was in integers, so that they can
 * be had back to the code. Learnt steps do not follow from the weights; nor does which layers were left as they are.
 *
 * The file is a safetensors file of another ending, which no other program takes for weights. For a layer `up_proj` it has
 * `up_proj.weight_scale` and `up_proj.weight_zero_point` as "pack-quantized" has them, and its metadata say which weights have what
 * type in groups of how many: `{"int3-g64": ["…up_proj.weight", …]}`. The model's config.json names the file: one that is left over
 * from an earlier model is not taken for this one's.
 *
 * @module
 */
import { sizeOf } from "../../core/shape.ts";
import type { IntegerType } from "../../kernels/quant/integer.ts";
import { brief } from "./json_text.ts";
import { readGrid, storeGrid } from "./pack_quantized.ts";
import { SafetensorsFile, type TensorData, writeSafetensors } from "./safetensors.ts";
import { BITS, type StoredInteger } from "./stored_integer.ts";
import type { Json } from "./tokenizer.ts";

/** The file's name. */
export const STEPS_FILE = "weight_steps.nibble";

/** What the metadata say. */
const FORMAT = { format: "nibble weight steps", version: "1" };

/**
 * How far a weight may lie from a whole number of steps: 255 of them are rounded to 0.13 in F16, and 15 to 0.06 in BF16. One that
 * lies farther was changed since.
 */
const FARTHEST = 0.3;

/** What config.json says of the file. */
export function stepsConfig(): Json {
  return { weight_steps: STEPS_FILE };
}

/** Writes the file to a folder, with the steps of weights by name. */
export async function writeSteps(
  folder: string,
  weights: ReadonlyMap<string, StoredInteger>,
): Promise<void> {
  const tensors = new Map<string, TensorData>();
  const schemes: Record<string, string[]> = {};
  for (const [name, stored] of weights) {
    for (const [key, data] of storeGrid(name, stored)) tensors.set(key, data);
    (schemes[`${stored.type}-g${stored.groupSize}`] ??= []).push(name);
  }
  const metadata = { ...FORMAT, schemes: JSON.stringify(schemes) };
  await writeSafetensors(`${folder}/${STEPS_FILE}`, tensors, metadata);
}

/** A weight's type, and how many share a step. */
interface StepScheme {
  readonly type: IntegerType;
  readonly groupSize: number;
}

/** Codes of weights [rows, columns] that lie on steps. */
function codesOn(
  name: string,
  weights: Float32Array,
  { type, groupSize, scales, shape: [rows, columns] }: Omit<StoredInteger, "codes">,
): Uint8Array {
  const groups = scales.length / 2 / rows;
  const most = 2 ** BITS[type] - 1;
  const codes = new Uint8Array(weights.length);
  for (let i = 0; i < weights.length; i++) {
    const row = Math.floor(i / columns);
    const group = 2 * (row * groups + Math.floor((i - row * columns) / groupSize));
    const [scale, zero] = [scales[group], scales[group + 1]];
    const exact = scale === 0 ? zero : weights[i] / scale + zero;
    const code = Math.round(exact);
    const isOn = Math.abs(exact - code) <= FARTHEST && code >= 0 && code <= most;
    if (!isOn || scale === 0 && weights[i] !== 0) {
      throw new RangeError(
        `Cannot put "${name}" back on its steps: weight ${i} is ${
          weights[i]
        }, which is none of the numbers of ${type} that ` +
          `"${STEPS_FILE}" has there; the model was changed since: take that file out of its folder`,
      );
    }
    codes[i] = code;
  }
  return codes;
}

/** The steps that a model folder has. */
export class WeightSteps implements Disposable {
  readonly #file: SafetensorsFile;
  readonly #schemes: ReadonlyMap<string, StepScheme>;

  /** Use `openSteps`. */
  constructor(file: SafetensorsFile, schemes: ReadonlyMap<string, StepScheme>) {
    this.#file = file;
    this.#schemes = schemes;
  }

  /** Whether all are of a type, and of a group size if one is given. */
  fits(type: string | undefined, groupSize: number | undefined): boolean {
    return [...this.#schemes.values()].every((own) =>
      own.type === type && (groupSize === undefined || own.groupSize === groupSize)
    );
  }

  /** The types and group sizes, in words. */
  get text(): string {
    const all = [...this.#schemes.values()];
    const names = new Set(all.map(({ type, groupSize }) => `${type} in groups of ${groupSize}`));
    return [...names].join(", ");
  }

  /** Whether a weight lies on steps. */
  has(name: string): boolean {
    return this.#schemes.has(name);
  }

  /**
   * A weight in whole numbers.
   *
   * @param name its name
   * @param weights the plain weights, row-major
   * @param shape [rows, columns]
   * @throws {RangeError} if the steps do not fit them
   */
  async put(
    name: string,
    weights: Float32Array,
    shape: readonly [rows: number, columns: number],
  ): Promise<StoredInteger> {
    const { type, groupSize } = this.#schemes.get(name)!;
    if (weights.length !== sizeOf(shape)) {
      throw new RangeError(
        `Cannot put "${name}" back on its steps: found ${weights.length} weights`,
      );
    }
    const { scales } = await readGrid(this.#file, name, shape, [groupSize], type);
    const grid = { type, groupSize, scales, shape };
    return { ...grid, codes: codesOn(name, weights, grid) };
  }

  /** Closes the file. */
  [Symbol.dispose](): void {
    this.#file.close();
  }
}

function schemesIn(text: string | undefined, path: string): Map<string, StepScheme> {
  const wrong = (found: string) =>
    new SyntaxError(
      `Cannot read the steps in "${path}": found ${found}, wanted names of weights by "int3-g64"; take the file out of the folder`,
    );
  let found: unknown;
  try {
    found = JSON.parse(text ?? "{}");
  } catch {
    throw wrong(brief(text));
  }
  const schemes = new Map<string, StepScheme>();
  for (const [scheme, names] of Object.entries(Object(found))) {
    const [, type, digits] = /^(int[8432])-g(\d+)$/.exec(scheme) ?? [];
    const groupSize = Number(digits);
    if (!type || !Number.isSafeInteger(groupSize) || groupSize < 1 || !Array.isArray(names)) {
      throw wrong(`${brief(scheme)}: ${brief(names)}`);
    }
    for (const name of names) {
      if (typeof name !== "string") throw wrong(brief(name));
      schemes.set(name, { type: type as IntegerType, groupSize });
    }
  }
  if (schemes.size === 0) throw wrong("none");
  return schemes;
}

/** Whether a config.json names the file. */
export function namesSteps(json: Json): boolean {
  return Object(json.nibble).weight_steps === STEPS_FILE;
}

/**
 * Opens the steps of a model folder; null if they are not there: who copies a plain model may leave them.
 *
 * @throws {SyntaxError} if it is no such file
 */
export async function openSteps(folder: string): Promise<WeightSteps | null> {
  const path = `${folder}/${STEPS_FILE}`;
  if (await Deno.stat(path).catch(() => null) === null) return null;
  const file = await SafetensorsFile.open(path);
  try {
    const { format, version, schemes } = file.metadata;
    if (format !== FORMAT.format || version !== FORMAT.version) {
      throw new SyntaxError(
        `Cannot read the steps in "${path}": found ${brief(format)} in version ${
          brief(version)
        }, wanted ${
          brief(FORMAT.format)
        } in version ${FORMAT.version}; take the file out of the folder`,
      );
    }
    return new WeightSteps(file, schemesIn(schemes, path));
  } catch (error) {
    file.close();
    throw error;
  }
}
