/**
 * The folder that a command writes a model or an adapter to, and the files beside it: looked at before any work is done.
 *
 * @module
 */

/** What is written. */
export type OutKind = "model" | "adapter";

/** The file by which an earlier output of that kind is known. */
const MARKS: Readonly<Record<OutKind, string>> = {
  model: "config.json",
  adapter: "adapter_config.json",
};

async function entriesOf(path: string, kind: OutKind): Promise<Set<string> | null> {
  try {
    return new Set((await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    const reason = error instanceof Deno.errors.NotADirectory
      ? "found a file of that name, wanted a folder"
      : (error as Error).message;
    throw new Error(`Cannot write the ${kind} to "${path}": ${reason}; name another with --out`);
  }
}

/**
 * Checks that a model or an adapter may be written to `out`: nothing is there, or an empty folder, or an earlier one of its kind,
 * but not the model that is being read.
 *
 * @param out the folder
 * @param kind what is written
 * @param source the model that is read, if there is one: a folder, or a name of the Hugging Face hub
 * @throws {Error} if something else is there
 */
export async function checkOut(out: string, kind: OutKind, source?: string): Promise<void> {
  const names = await entriesOf(out, kind);
  if (names === null || names.size === 0) return;
  if (!names.has(MARKS[kind])) {
    const [first] = [...names].sort();
    throw new Error(
      `Cannot write the ${kind} to "${out}": found other files there, such as "${first}", wanted a new or empty folder, ` +
        `or ${
          kind === "model" ? "a model" : "an adapter"
        } folder to replace; name another with --out`,
    );
  }
  const read = source === undefined ? null : await Deno.realPath(source).catch(() => null);
  if (read !== null && await Deno.realPath(out) === read) {
    throw new Error(
      `Cannot write the ${kind} to "${out}": it is the folder that the model is read from; name another with --out`,
    );
  }
}

/**
 * Checks that a file may be written to `path`: that no folder has that name.
 *
 * @param path the file, or nothing to check
 * @param flag the flag that names it
 * @throws {Error} if a folder is there
 */
export async function checkOutFile(path: string | undefined, flag: string): Promise<void> {
  if (path === undefined) return;
  const info = await Deno.stat(path).catch(() => null);
  if (!info?.isDirectory) return;
  throw new Error(
    `Cannot write to "${path}": found a folder of that name, wanted a file; name another with ${flag}`,
  );
}

/**
 * Checks that files may be written into a folder `path`: that no file has that name.
 *
 * @param path the folder, or nothing to check
 * @param flag the flag that names it
 * @throws {Error} if a file is there
 */
export async function checkOutFolder(path: string | undefined, flag: string): Promise<void> {
  if (path === undefined) return;
  const info = await Deno.stat(path).catch(() => null);
  if (!info || info.isDirectory) return;
  throw new Error(
    `Cannot write to "${path}": found a file of that name, wanted a folder; name another with ${flag}`,
  );
}
