/**
 * Models of the Hugging Face hub, by name.
 *
 * @module
 */
import { BlobDownload, type HubFile, isWhole } from "./hub_blob.ts";
import { ModelCache } from "./hub_cache.ts";
import { explain } from "./hub_faults.ts";
import { chooseFiles, lackOf, shardsIn } from "./hub_files.ts";
import { HubClient, type HubTiming, PassingFault } from "./hub_request.ts";
import { hubSettings, parseHubName } from "./hub_settings.ts";

/** How far a download is. */
export interface DownloadProgress {
  /** The file that is being fetched. */
  readonly file: string;
  /** Bytes that are here, of all files that this download fetches. */
  readonly done: number;
  /** Bytes of all these files. */
  readonly total: number;
}

/** What is downloaded, and who is told. */
export interface DownloadOptions {
  /** A branch, a tag or a commit: "main" by default. */
  readonly revision?: string;
  /** Whether the weights are fetched too: true by default. Without them a folder is enough to make a random model. */
  readonly weights?: boolean;
  /** Is told about every piece that arrives. */
  readonly onProgress?: (progress: DownloadProgress) => void;
  /** Stops the download. What has arrived is kept, and the next download goes on from there. */
  readonly signal?: AbortSignal;
  /** @ignore For tests. */
  readonly timing?: HubTiming;
}

/** Before the first answer, a wrong name or address is likelier than a bad line. */
const FIRST_RETRIES = 3;
/** So many files are asked about at a time. */
const LOOKS = 8;

/** One model at one revision, while it is downloaded. */
class Download {
  readonly #client: HubClient;
  readonly #cache: ModelCache;
  readonly #name: string;
  readonly #revision: string;
  readonly #options: DownloadOptions;
  /** What is being fetched: what a fault is about. */
  #file = "";

  constructor(client: HubClient, name: string, revision: string, options: DownloadOptions) {
    this.#client = client;
    this.#cache = new ModelCache(client.settings.cache, name);
    this.#name = name;
    this.#revision = revision;
    this.#options = options;
  }

  async run(): Promise<string> {
    const { weights = true, signal } = this.#options;
    const known = await this.#cache.commitOf(this.#revision);
    const cached = known && this.#cache.snapshot(known);
    const lack = cached ? await lackOf(cached, weights) : "no such revision";
    const { isOffline, cache } = this.#client.settings;
    if (isOffline) {
      if (cached && lack === null) return cached;
      throw new Error(
        `Cannot open "${this.#name}" at revision "${this.#revision}" from the cache in "${cache}": ${lack}; ` +
          "HF_HUB_OFFLINE is set, so download it without that once, or name a folder",
      );
    }
    try {
      return await this.#online(weights, cached && lack === null ? cached : null);
    } catch (error) {
      signal?.throwIfAborted();
      throw await explain(error, {
        client: this.#client,
        name: this.#name,
        revision: this.#revision,
        file: this.#file,
      });
    }
  }

  async #online(weights: boolean, cached: string | null): Promise<string> {
    let list;
    try {
      list = await this.#client.patiently(() => this.#list(), cached ? 0 : FIRST_RETRIES);
    } catch (error) {
      // The hub is down or far away: what is here was right when it was downloaded.
      if (error instanceof PassingFault && cached) return cached;
      throw error;
    }
    const { commit, names } = list;
    const snapshot = this.#cache.snapshot(commit);
    const { files, index } = chooseFiles(names, weights);
    if (index) await this.#fetch(commit, [index], () => {});
    const shards = index ? await shardsIn(`${snapshot}/${index}`, names) : [];
    await this.#fetch(commit, [...files, ...shards], this.#options.onProgress);
    // Last: a download that was cut leaves the earlier, whole snapshot as the one to use offline.
    await this.#cache.note(this.#revision, commit);
    return snapshot;
  }

  /** The commit that the revision is at, and the names of its files. */
  async #list(): Promise<{ commit: string; names: string[] }> {
    const { endpoint } = this.#client.settings;
    const revision = encodeURIComponent(this.#revision);
    const url = `${endpoint}/api/models/${this.#name}/revision/${revision}`;
    using response = await this.#client.send(url);
    const fault = () =>
      new SyntaxError(
        `found something else than a model's list of files at ${url}, wanted JSON with sha and siblings; check HF_ENDPOINT`,
      );
    const json = await response.json().catch((error) => {
      throw error instanceof SyntaxError ? fault() : error;
    });
    const { sha, siblings } = Object(json);
    if (typeof sha !== "string" || !/^[0-9A-Za-z]{1,64}$/.test(sha) || !Array.isArray(siblings)) {
      throw fault();
    }
    const names = siblings.map((sibling: unknown) => Object(sibling).rfilename);
    if (!names.every((name) => typeof name === "string")) throw fault();
    return { commit: sha, names };
  }

  /** Fetches those of the files that are not in the snapshot yet. */
  async #fetch(
    commit: string,
    names: readonly string[],
    onProgress?: DownloadOptions["onProgress"],
  ): Promise<void> {
    const files = await this.#lookAll(commit, names);
    const total = files.reduce((sum, { size }) => sum + (size ?? 0), 0);
    let before = 0;
    for (const file of files) {
      const { name, etag, size } = file;
      this.#file = name;
      let own = 0;
      const tell = (bytes: number) => {
        own = bytes;
        const done = before + own;
        onProgress?.({ file: name, done, total: Math.max(total, done) });
      };
      const blob = this.#cache.blob(etag);
      if (!await isWhole(blob.path, size)) {
        await new BlobDownload(this.#client, file, tell).into(blob);
      }
      await this.#cache.link(commit, name, etag);
      // It was here already, from another revision or by another process.
      if (size !== null && own !== size) tell(size);
      before += own;
    }
    this.#file = "";
  }

  /** What the hub says about those of the files that are not in the snapshot yet. */
  async #lookAll(commit: string, names: readonly string[]): Promise<HubFile[]> {
    const snapshot = this.#cache.snapshot(commit);
    const files: HubFile[] = [];
    for (let from = 0; from < names.length; from += LOOKS) {
      const group = names.slice(from, from + LOOKS).map(async (name) => {
        if (await isWhole(`${snapshot}/${name}`, null)) return null;
        try {
          return await this.#client.patiently(() => this.#look(commit, name));
        } catch (error) {
          this.#file = name;
          throw error;
        }
      });
      const settled = await Promise.allSettled(group);
      for (const one of settled) {
        if (one.status === "rejected") throw one.reason;
        if (one.value) files.push(one.value);
      }
    }
    return files;
  }

  /** What the hub says about a file. */
  async #look(commit: string, name: string): Promise<HubFile> {
    const { endpoint } = this.#client.settings;
    const url = `${endpoint}/${this.#name}/resolve/${commit}/${encodeURIComponent(name)}`;
    using response = await this.#client.send(url, { method: "HEAD" });
    const { headers, status } = response;
    const etag = (headers.get("x-linked-etag") ?? headers.get("etag") ?? "")
      .replace(/^W\//, "").replaceAll('"', "");
    // It becomes a file's name.
    if (!/^[A-Za-z0-9][\w.+=-]{0,127}$/.test(etag)) {
      throw new RangeError(
        `found ${
          etag ? `the ETag ${JSON.stringify(etag)}` : "no ETag"
        }, wanted the file's hash; check HF_ENDPOINT`,
      );
    }
    const other = headers.get("x-repo-commit");
    if (other !== null && other !== commit) {
      throw new RangeError(`found commit ${JSON.stringify(other)}, wanted ${commit}; try again`);
    }
    const length = headers.get("x-linked-size") ??
      (status === 200 && !headers.has("content-encoding") ? headers.get("content-length") : null);
    const size = length !== null && /^\d+$/.test(length) ? Number(length) : null;
    return { name, url, etag, size };
  }
}

/**
 * Downloads a model, or an adapter, from the Hugging Face hub: config.json, the tokenizer, and weights in safetensors. It goes
 * into the cache that huggingface_hub uses too, so what one of them has downloaded, the other does not download again. A download
 * that was cut goes on where it was; sizes and hashes are checked, and no file has its name before it is whole.
 *
 * The environment says where and who: HF_ENDPOINT, HF_TOKEN (or the token that `hf auth login` has stored), HF_HOME, HF_HUB_CACHE, and
 * HF_HUB_OFFLINE=1 to use only what is in the cache. Where the hub is out of reach, a model that is whole in the cache is used.
 *
 * @param name `org/name`
 * @param options the revision, and who is told about progress
 * @returns the folder of the model, in the cache
 * @throws {RangeError} if the name is not a model's, the model has no safetensors, or a file's size or hash is wrong
 * @throws {Error} if the hub refuses, has no such model, or stays out of reach
 *
 * @example
 * ```ts ignore
 * import { downloadModel, loadModel, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const folder = await downloadModel("HuggingFaceTB/SmolLM2-135M", {
 *   onProgress: ({ file, done, total }) => console.log(file, `${done} of ${total} bytes`),
 * });
 * const model = await loadModel(device, folder, { quantize: "nf4" });
 * ```
 */
export async function downloadModel(name: string, options: DownloadOptions = {}): Promise<string> {
  const parsed = parseHubName(`${name}@${options.revision ?? "main"}`, false);
  if (!parsed) {
    const { revision } = options;
    throw new RangeError(
      `Cannot download ${JSON.stringify(name)}${
        revision === undefined ? "" : ` at revision ${JSON.stringify(revision)}`
      }: wanted a name such as "HuggingFaceTB/SmolLM2-135M", and a branch, tag or commit as revision`,
    );
  }
  const client = new HubClient(await hubSettings(), options);
  return await new Download(client, parsed.name, parsed.revision!, options).run();
}

/**
 * The folder of a model. What is not a folder or file here and reads as `org/name` or `org/name@revision` is downloaded, or found in
 * the cache; anything else is given back as it is, so that whoever opens it says what is wrong.
 *
 * @param nameOrFolder what a user wrote
 * @param options for `downloadModel`
 */
export async function resolveModel(
  nameOrFolder: string,
  options: DownloadOptions = {},
): Promise<string> {
  const found = parseHubName(nameOrFolder, true);
  // A path that ends so is a file's, if it is there or not.
  if (!found || /\.(gguf|safetensors)$/i.test(nameOrFolder)) return nameOrFolder;
  try {
    await Deno.stat(nameOrFolder);
    return nameOrFolder;
  } catch (error) {
    if (!(error instanceof Deno.errors.NotFound)) return nameOrFolder;
  }
  const { name, revision = options.revision } = found;
  return await downloadModel(name, { ...options, revision });
}
