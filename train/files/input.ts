/**
 * Reading small text and JSON files, with errors that say which file and why.
 *
 * @module
 */

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
 * @throws {Error} if the file is missing or cannot be read.
 * @throws {SyntaxError} if it does not hold a JSON object.
 */
export async function readJsonOf(path: string, what: string): Promise<Record<string, unknown>> {
  const text = await readTextOf(path, what);
  let value: unknown;
  try {
    value = JSON.parse(text);
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
