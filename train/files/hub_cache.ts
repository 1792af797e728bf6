/**
 * The hub's cache on disk, laid out as huggingface_hub does it, so that both tools find each other's files:
 *
 * ```text
 * models--org--name/blobs/<etag>                 every file once, named by its hash
 * models--org--name/refs/<revision>              the commit that a branch or tag was at
 * models--org--name/snapshots/<commit>/<file>    links to ../../blobs/<etag>
 * .locks/models--org--name/<etag>.lock
 * ```
 *
 * Where the file system has no links, files lie in the snapshots themselves.
 *
 * @module
 */
import { dirname } from "node:path";
import { type BlobPlace, isWhole } from "./hub_blob.ts";
import { replaceFile, writeWhole } from "./output.ts";

const COMMIT = /^[0-9a-f]{40}$/;

/** One model's part of the cache. */
export class ModelCache {
  readonly #folder: string;
  readonly #locks: string;

  /**
   * @param cache the folder of all models
   * @param name `org/name`
   */
  constructor(cache: string, name: string) {
    const own = `models--${name.replace("/", "--")}`;
    this.#folder = `${cache}/${own}`;
    this.#locks = `${cache}/.locks/${own}`;
  }

  /** The folder of a commit, there or not. */
  snapshot(commit: string): string {
    return `${this.#folder}/snapshots/${commit}`;
  }

  /** Where a blob lies, there or not. */
  blob(etag: string): BlobPlace {
    return { path: `${this.#folder}/blobs/${etag}`, lock: `${this.#locks}/${etag}.lock` };
  }

  /** The commit that a revision was at when it was last downloaded, or null. */
  async commitOf(revision: string): Promise<string | null> {
    if (COMMIT.test(revision)) return revision;
    try {
      const commit = (await Deno.readTextFile(`${this.#folder}/refs/${revision}`)).trim();
      return /^\w+$/.test(commit) ? commit : null;
    } catch {
      return null;
    }
  }

  /** Notes the commit of a revision. */
  async note(revision: string, commit: string): Promise<void> {
    // A cache that is read-only can hold all that is needed.
    if (await this.commitOf(revision) === commit) return;
    await writeWhole(`${this.#folder}/refs/${revision}`, commit);
  }

  /** Shows a blob as a file of a snapshot. */
  async link(commit: string, file: string, etag: string): Promise<void> {
    const path = `${this.snapshot(commit)}/${file}`;
    const { path: blob } = this.blob(etag);
    if (await isWhole(path, null)) return; // Another process was faster.
    await Deno.mkdir(dirname(path), { recursive: true });
    await replaceLink(path, `../../blobs/${etag}`).catch(async (error) => {
      if (await isWhole(path, null)) return;
      // No links here (Windows without the privilege, FAT): the blob itself moves. Like huggingface_hub, which then finds it.
      if (!await isWhole(blob, null)) throw error;
      await replaceFile(path, (temporary) => Deno.rename(blob, temporary));
    });
  }
}

async function replaceLink(path: string, target: string): Promise<void> {
  const old = await Deno.lstat(path).catch(() => null);
  if (old) await Deno.remove(path); // a link whose blob is gone
  await Deno.symlink(target, path, { type: "file" });
}
