/**
 * One file of the Hugging Face hub, downloaded into the cache's blobs: resumed after a cut, and in place only once it is whole
 * and has the right hash.
 *
 * While a blob is written, `.locks/models--org--name/<etag>.lock` is locked (flock, as huggingface_hub does it; the system frees
 * it when a process dies), so two processes never write the same partial file. On a file system without locks, each process
 * writes a partial file of its own, which is not resumed.
 *
 * @module
 */
import { createHash, type Hash } from "node:crypto";
import { statfs } from "node:fs/promises";
import { dirname } from "node:path";
import { setTimeout as wait } from "node:timers/promises";
import { type HubClient, type HubResponse, PassingFault } from "./hub_request.ts";

/** How long a process that finds a blob locked waits before it looks again. */
const LOCK_MILLISECONDS = 100;

/** A file as the hub describes it. */
export interface HubFile {
  /** Its name in the model. */
  readonly name: string;
  /** Its address. */
  readonly url: string;
  /** Its hash, if it has the form of one: SHA-256 of large files, git's SHA-1 of others. Blobs are named by it. */
  readonly etag: string;
  /** Its bytes, where the hub says so. */
  readonly size: number | null;
}

/** Where a blob goes. */
export interface BlobPlace {
  /** The path of the blob. */
  readonly path: string;
  /** The path of its lock. */
  readonly lock: string;
}

/** A file with this name is there, and has this size if one is known. */
export async function isWhole(path: string, size: number | null): Promise<boolean> {
  try {
    const found = await Deno.stat(path);
    return found.isFile && (size === null || found.size === size);
  } catch {
    return false;
  }
}

/** The part of a file that is here, and the hash of that part. */
class PartialFile implements Disposable {
  readonly path: string;
  size = 0;
  readonly #file: Deno.FsFile;
  #hash: Hash = createHash("sha256");

  private constructor(path: string, file: Deno.FsFile) {
    this.path = path;
    this.#file = file;
  }

  /** Opens what an earlier run left, or a new file. */
  static async open(path: string): Promise<PartialFile> {
    const file = await Deno.open(path, { read: true, write: true, create: true });
    const partial = new PartialFile(path, file);
    // Not read: a device, which has no end.
    if (!file.statSync().isFile) return partial;
    const piece = new Uint8Array(1 << 20);
    for (let count; (count = await file.read(piece)) !== null;) {
      partial.#hash.update(piece.subarray(0, count));
      partial.size += count;
    }
    return partial;
  }

  append(bytes: Uint8Array): void {
    for (let at = 0; at < bytes.length;) at += this.#file.writeSync(bytes.subarray(at));
    this.#hash.update(bytes);
    this.size += bytes.length;
  }

  restart(): void {
    if (this.size === 0) return;
    this.#file.truncateSync(0);
    this.#file.seekSync(0, Deno.SeekMode.Start);
    this.#hash = createHash("sha256");
    this.size = 0;
  }

  /** Sees to it that the bytes are on the disk, not only in the system's memory. */
  async sync(): Promise<void> {
    await this.#file.sync();
  }

  /** The hash in the form that `etag` has, or null if it is not a hash. */
  async hashLike(etag: string): Promise<string | null> {
    if (/^[0-9a-f]{64}$/i.test(etag)) return this.#hash.copy().digest("hex");
    if (!/^[0-9a-f]{40}$/i.test(etag)) return null;
    // git's hash begins with the size, which is certain only now. Such files are small.
    const content = await Deno.readFile(this.path);
    return createHash("sha1").update(`blob ${content.length}\0`).update(content).digest("hex");
  }

  [Symbol.dispose](): void {
    this.#file.close();
  }
}

/** A file that is not what the hub said. */
class WrongFile extends RangeError {}

/** The size of the whole file that an answer is a part of, or null if it does not say. */
function wholeSize({ status, headers }: HubResponse): number | null {
  const [, total] = /^bytes .*\/(\d+)$/.exec(headers.get("content-range") ?? "") ?? [];
  if (total !== undefined) return Number(total);
  const length = headers.get("content-length");
  return status === 200 && length !== null && !headers.has("content-encoding")
    ? Number(length)
    : null;
}

/** Whether an answer goes on where the partial file ends. */
function goesOn({ status, headers }: HubResponse, from: number): boolean {
  return status === 206 && (headers.get("content-range") ?? "").startsWith(`bytes ${from}-`);
}

/** Downloads one blob. */
export class BlobDownload {
  readonly #client: HubClient;
  readonly #file: HubFile;
  readonly #onBytes: (done: number) => void;
  /** Whether bytes of several answers were put together. */
  #isPieced = false;
  #most = 0;

  /**
   * @param client how the hub is asked
   * @param file what is downloaded
   * @param onBytes is told how many bytes of it are here
   */
  constructor(client: HubClient, file: HubFile, onBytes: (done: number) => void) {
    this.#client = client;
    this.#file = file;
    this.#onBytes = onBytes;
  }

  /**
   * Puts the file at `place`, unless it is there. What was fetched before a cut stays beside it as `<etag>.incomplete`.
   *
   * @throws {RangeError} if the size or the hash is not what the hub said; the partial file is removed
   * @throws {Error} if the hub refuses or stays out of reach, or the file cannot be written
   */
  async into({ path, lock: lockPath }: BlobPlace): Promise<void> {
    await Deno.mkdir(dirname(path), { recursive: true });
    using lock = await this.#lock(lockPath);
    // Another process may have finished it while this one waited.
    if (await isWhole(path, this.#file.size)) return;
    const own = lock ? "" : `.${Deno.pid}-${crypto.randomUUID().slice(0, 8)}`;
    const partialPath = `${path}${own}.incomplete`;
    try {
      await this.#checkSpace(path, await sizeOf(partialPath));
      {
        using partial = await PartialFile.open(partialPath);
        await this.#fill(partial);
        await partial.sync();
      }
      await Deno.rename(partialPath, path);
    } catch (error) {
      if (own || error instanceof WrongFile) await Deno.remove(partialPath).catch(() => {});
      throw error;
    }
  }

  async #lock(path: string): Promise<Disposable | null> {
    await Deno.mkdir(dirname(path), { recursive: true });
    const file = await Deno.open(path, { write: true, create: true });
    try {
      while (!await file.tryLock(true)) {
        await wait(LOCK_MILLISECONDS, undefined, { signal: this.#client.signal }).catch(() => {});
        this.#client.signal?.throwIfAborted();
      }
      return file;
    } catch {
      file.close();
      this.#client.signal?.throwIfAborted();
      return null; // The file system has no locks.
    }
  }

  async #checkSpace(path: string, have: number): Promise<void> {
    const { size } = this.#file;
    // A file system that does not tell is found full when it is.
    const space = await statfs(dirname(path)).catch(() => null);
    const free = space ? Number(space.bavail) * Number(space.bsize) : Infinity;
    if (size === null || size - have <= free) return;
    throw new Error(
      `found ${free} bytes free in "${dirname(path)}", wanted ${
        size - have
      }; free some, or set HF_HOME to a folder on ` +
        "another disk",
    );
  }

  async #fill(partial: PartialFile): Promise<void> {
    const { size, etag } = this.#file;
    if (size !== null && partial.size > size) partial.restart();
    this.#isPieced = partial.size > 0;
    this.#most = partial.size;
    this.#onBytes(partial.size);
    await this.#client.patiently(() => this.#attempt(partial));
    let found = await partial.hashLike(etag);
    if (found !== null && found !== etag.toLowerCase() && this.#isPieced) {
      // A part may be damaged, or of another download: the whole in one piece decides.
      partial.restart();
      this.#most = 0;
      await this.#client.patiently(() => this.#attempt(partial));
      found = await partial.hashLike(etag);
    }
    if (found !== null && found !== etag.toLowerCase()) {
      throw new WrongFile(
        `found a file whose hash is ${found}, wanted ${etag}; it was removed. Run the same again, and if that does not ` +
          "help, tell the model's owner or whoever runs the mirror",
      );
    }
  }

  /** One request, from where the partial file ends. */
  async #attempt(partial: PartialFile): Promise<void> {
    const { url, size } = this.#file;
    if (size !== null && partial.size === size) return;
    const from = partial.size;
    using response = await this.#client.send(url, { from, allowed: [416] });
    const whole = wholeSize(response);
    if (size !== null && whole !== null && whole !== size) throw wrongSize(String(whole), size);
    if (response.status === 416) {
      // Nothing is left to send. That is no fault where nobody knew the size.
      if (whole !== null && whole === from) return;
      partial.restart();
      throw new PassingFault("the answer 416 (no such range)");
    }
    if (from > 0 && goesOn(response, from)) this.#isPieced = true;
    else if (from > 0) partial.restart();
    try {
      for await (const bytes of response.chunks()) {
        const end = partial.size + bytes.length;
        if (size !== null && end > size) throw wrongSize(`${end} or more`, size);
        partial.append(bytes);
        this.#onBytes(partial.size);
      }
      if (size !== null && partial.size < size) throw new PassingFault("the connection was closed");
    } catch (error) {
      throw error instanceof PassingFault ? this.#cut(error, partial.size) : error;
    }
  }

  #cut(fault: PassingFault, have: number): PassingFault {
    const isAdvance = have > this.#most;
    this.#most = Math.max(this.#most, have);
    const { message, milliseconds } = fault;
    const of = this.#file.size === null ? "" : ` of ${this.#file.size}`;
    return new PassingFault(`${message} after ${have}${of} bytes`, { milliseconds, isAdvance });
  }
}

function wrongSize(found: string, wanted: number): WrongFile {
  return new WrongFile(
    `found ${found} bytes, wanted ${wanted}, as the hub had said; what came was removed. Run the same again, and if that ` +
      "does not help, tell whoever runs the mirror",
  );
}

async function sizeOf(path: string): Promise<number> {
  try {
    return (await Deno.stat(path)).size;
  } catch {
    return 0;
  }
}
