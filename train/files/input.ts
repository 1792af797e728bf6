/**
 * Reading small text and JSON files, with errors that say which file and why.
 *
 * @module
 */
import { checkCount, checkDepth, checkKeys } from "./json_text.ts";

/** What a kind of JSON file may be. */
export interface JsonLimits {
  /** The most bytes. */
  readonly bytes: number;
  /** The most commas, which bounds the values and so the memory that they take. */
  readonly commas: number;
  /** How deep keys must be there once: 1 for those of the file's object alone, as a walk over all takes time. */
  readonly keys: number;
}

/** tokenizer.json: the largest have 35 MB, and a million and a half commas. */
const LARGE: JsonLimits = { bytes: 1 << 26, commas: 2_500_000, keys: 1 };
/** Configurations. */
export const SMALL_JSON: JsonLimits = { bytes: 1 << 21, commas: 100_000, keys: 64 };
/** Lists of shards: those of the largest models have a hundred thousand tensors. */
export const SHARDS_JSON: JsonLimits = { bytes: 1 << 25, commas: 400_000, keys: 2 };

/**
 * The text of a file.
 *
 * @param what What the file is for, as errors name it: "the tokenizer".
 * @throws {Error} if the file is missing or cannot be read, naming it.
 */
export async function readTextOf(path: string, what: string): Promise<string> {
  try {
    return await Deno.readTextFile(path);
  } catch (error) {
    throw readFault(path, what, error);
  }
}

/**
 * The object in a JSON file.
 *
 * @param what What the file is for, as errors name it: "the model's configuration".
 * @param limits how large it may be
 * @throws {Error} if the file is missing or cannot be read.
 * @throws {SyntaxError} if it does not hold a JSON object.
 * @throws {RangeError} if it is longer than such files are.
 */
export async function readJsonOf(
  path: string,
  what: string,
  limits: JsonLimits = LARGE,
): Promise<Record<string, unknown>> {
  await checkLength(path, what, limits.bytes);
  const text = await readTextOf(path, what);
  let value: unknown;
  try {
    checkDepth(text);
    checkCount(text, limits.commas);
    value = JSON.parse(text);
    if (typeof value === "object" && !Array.isArray(value) && value) checkKeys(text, limits.keys);
  } catch (error) {
    throw new SyntaxError(
      `Cannot read ${what} "${path}": it is not valid JSON (${(error as Error).message})`,
    );
  }
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    const found = Array.isArray(value) ? "an array" : value === null ? "null" : `a ${typeof value}`;
    throw new SyntaxError(`Cannot read ${what} "${path}": it holds ${found}, wanted a JSON object`);
  }
  return value as Record<string, unknown>;
}

/** Throws if a file is longer than any JSON that a model has. */
async function checkLength(path: string, what: string, longest: number): Promise<void> {
  let size = 0;
  try {
    size = (await Deno.stat(path)).size;
  } catch {
    // Reading it says what is wrong.
  }
  if (size <= longest) return;
  throw new RangeError(
    `Cannot read ${what} "${path}": it has ${size} bytes, wanted at most ${longest}`,
  );
}

/** The error for a file that could not be opened or read. */
export function readFault(path: string, what: string, error: unknown): Error {
  const reason = error instanceof Deno.errors.NotFound
    ? "there is no such file; check the path"
    : error instanceof Deno.errors.IsADirectory || /EISDIR|is a directory/i.test(String(error))
    ? "it is a folder, wanted a file"
    : error instanceof Deno.errors.NotADirectory
    ? `"${path.slice(0, path.lastIndexOf("/"))}" is a file, wanted a folder`
    : error instanceof Error
    ? error.message
    : String(error);
  return new Error(`Cannot read ${what} "${path}": ${reason}`, { cause: error });
}
