/**
 * The folder that a command writes a model to: looked at before any work is done.
 *
 * @module
 */

async function entriesOf(path: string): Promise<Set<string> | null> {
  try {
    return new Set((await Array.fromAsync(Deno.readDir(path))).map(({ name }) => name));
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    const reason = error instanceof Deno.errors.NotADirectory
      ? "found a file of that name, wanted a folder"
      : (error as Error).message;
    throw new Error(`Cannot write the model to "${path}": ${reason}; name another with --out`);
  }
}

/**
 * Checks that a model may be written to `out`: nothing is there, or an empty folder, or an earlier model, but not the model that
 * is being read.
 *
 * @throws {Error} if something else is there
 */
export async function checkOut(out: string, model: string): Promise<void> {
  const names = await entriesOf(out);
  if (names === null || names.size === 0) return;
  if (!names.has("config.json")) {
    const [first] = [...names].sort();
    throw new Error(
      `Cannot write the model to "${out}": found other files there, such as "${first}", wanted a new or empty folder, ` +
        "or a model folder to replace; name another with --out",
    );
  }
  if (await Deno.realPath(out) === await Deno.realPath(model)) {
    throw new Error(
      `Cannot write the model to "${out}": it is the folder that the model is read from; name another with --out`,
    );
  }
}
