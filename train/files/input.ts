/**
 * Reading small text and JSON files, with errors that say which file and why.
 *
 * @module
 */
import { checkDepth } from "./json_text.ts";

/** The longest JSON: the largest tokenizer.json have 35 MB. */
const LONGEST = 1 << 26;

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
 * @param check Throws what else is wrong with the text.
 * @throws {Error} if the file is missing or cannot be read.
 * @throws {SyntaxError} if it does not hold a JSON object.
 * @throws {RangeError} if it is longer than such files are.
 */
export async function readJsonOf(
  path: string,
  what: string,
  check: (text: string) => void = () => {},
): Promise<Record<string, unknown>> {
  await checkLength(path, what);
  const text = await readTextOf(path, what);
  let value: unknown;
  try {
    checkDepth(text);
    value = JSON.parse(text);
    check(text);
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
async function checkLength(path: string, what: string): Promise<void> {
  let size = 0;
  try {
    size = (await Deno.stat(path)).size;
  } catch {
    // Reading it says what is wrong.
  }
  if (size <= LONGEST) return;
  throw new RangeError(
    `Cannot read ${what} "${path}": it has ${size} bytes, wanted at most ${LONGEST}`,
  );
}

/** The error for a file that could not be opened or read. */
export function readFault(path: string, what: string, error: unknown): Error {
  const reason = error instanceof Deno.errors.NotFound
    ? "there is no such file; check the path"
    : error instanceof Deno.errors.IsADirectory || /EISDIR|is a directory/i.test(String(error))
    ? "it is a folder, wanted a file"
    : error instanceof Error
    ? error.message
    : String(error);
  return new Error(`Cannot read ${what} "${path}": ${reason}`, { cause: error });
}
