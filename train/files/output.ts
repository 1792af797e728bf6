/**
 * Files and folders that appear whole or not at all: written under a temporary name beside the target, then renamed.
 *
 * @module
 */
import { dirname, resolve, sep } from "node:path";

let written = 0;

/** A name beside `path` that no other write uses; .gitignore knows the pattern. */
function temporaryName(path: string): string {
  return `${path}.tmp-${Deno.pid}-${written++}`;
}

async function look(path: string): Promise<Deno.FileInfo | null> {
  try {
    return await Deno.stat(path);
  } catch (error) {
    if (error instanceof Deno.errors.NotFound) return null;
    throw cannot("write", path, error);
  }
}

function cannot(action: string, path: string, error: unknown): Error {
  const reason = error instanceof Error ? error.message : String(error);
  return new Error(`Cannot ${action} "${path}": ${reason}`, { cause: error });
}

async function makeParent(path: string): Promise<void> {
  try {
    await Deno.mkdir(dirname(path), { recursive: true });
  } catch (error) {
    throw cannot("make the folder for", path, error);
  }
}

async function removeIfThere(path: string): Promise<void> {
  try {
    await Deno.remove(path, { recursive: true });
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) throw error;
  }
}

/**
 * Lets `write` fill a temporary file beside `path`, then gives it that name. Missing parent folders are made. When `write`
 * throws, the temporary file goes and what was at `path` stays as it was.
 *
 * @throws {Error} if `path` is a folder or cannot be written; whatever `write` throws.
 */
export async function replaceFile(
  path: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const old = await look(path);
  if (old?.isDirectory) {
    throw new Error(`Cannot write the file "${path}": a folder has that name; choose another name`);
  }
  // A device or pipe (/dev/null, /dev/stdout) must be written to, not replaced by a file.
  if (old && !old.isFile) return await write(path);
  await makeParent(path);
  const target = old ? await Deno.realPath(path) : path; // a link keeps pointing where it points
  const temporary = temporaryName(target);
  try {
    await write(temporary);
    await Deno.rename(temporary, target);
  } catch (error) {
    await removeIfThere(temporary);
    throw error;
  }
}

/**
 * Writes a file whole: whoever reads `path` sees the earlier content or the new one, never a part.
 *
 * @throws {Error} if `path` is a folder or cannot be written.
 */
export async function writeWhole(path: string, data: string | Uint8Array): Promise<void> {
  await replaceFile(path, async (temporary) => {
    try {
      if (typeof data === "string") await Deno.writeTextFile(temporary, data);
      else await Deno.writeFile(temporary, data);
    } catch (error) {
      throw cannot("write", path, error);
    }
  });
}

/**
 * Lets `write` fill a temporary folder beside `path`, then puts it in place. A folder that was there is swapped out by
 * renames and put back if that fails; of its entries, those that `write` made anew are replaced and the others are kept,
 * since they may be the user's own. When `write` throws, nothing changes.
 *
 * @throws {Error} if `path` is a file, holds the current folder, or cannot be written; whatever `write` throws.
 */
export async function writeFolder(
  path: string,
  write: (temporary: string) => Promise<void>,
): Promise<void> {
  const old = await look(path);
  if (old && !old.isDirectory) {
    throw new Error(
      `Cannot write the folder "${path}": a file has that name; choose another name or remove it`,
    );
  }
  const target = old ? await Deno.realPath(path) : resolve(path);
  if (old && `${Deno.cwd()}${sep}`.startsWith(target.endsWith(sep) ? target : target + sep)) {
    throw new Error(
      `Cannot write the folder "${path}": it is or holds the current folder; name a folder inside it`,
    );
  }
  await makeParent(target);
  const temporary = temporaryName(target);
  try {
    try {
      await Deno.mkdir(temporary);
    } catch (error) {
      throw cannot("write the folder", path, error);
    }
    await write(temporary);
    if (old) await swapFolders(target, temporary);
    else await Deno.rename(temporary, target);
  } catch (error) {
    await removeIfThere(temporary);
    throw error;
  }
}

async function swapFolders(target: string, temporary: string): Promise<void> {
  const aside = temporaryName(target);
  try {
    await Deno.rename(target, aside);
  } catch (error) {
    throw cannot("replace the folder", target, error);
  }
  try {
    await Deno.rename(temporary, target);
  } catch (error) {
    await Deno.rename(aside, target);
    throw cannot("replace the folder", target, error);
  }
  const made = new Set((await Array.fromAsync(Deno.readDir(target))).map((entry) => entry.name));
  for await (const { name } of Deno.readDir(aside)) {
    if (!made.has(name)) await Deno.rename(`${aside}/${name}`, `${target}/${name}`);
  }
  await Deno.remove(aside, { recursive: true });
}
