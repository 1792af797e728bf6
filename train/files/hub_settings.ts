/**
 * Where the Hugging Face hub is, who asks, and where its cache lies: what the environment says, by the names and rules of the
 * Python package huggingface_hub, so that both tools share their settings and their files.
 *
 * @module
 */

/** What the environment says about the hub. */
export interface HubSettings {
  /** The hub's address, without a slash at its end. */
  readonly endpoint: string;
  /** The access token, or null for what anyone may have. */
  readonly token: string | null;
  /** The folder that holds `models--org--name` folders. */
  readonly cache: string;
  /** Whether only the cache may be used. */
  readonly isOffline: boolean;
}

/** A model by its name on the hub. */
export interface HubName {
  /** `org/name`. */
  readonly name: string;
  /** A branch, a tag or a commit, if the text names one. */
  readonly revision?: string;
}

function fromEnvironment(...names: readonly string[]): string | undefined {
  for (const name of names) {
    const value = Deno.env.get(name);
    if (value) return value;
  }
}

/** The user's home for a leading `~`. */
function expand(path: string): string {
  const home = fromEnvironment("HOME", "USERPROFILE") ?? ".";
  return path.replace(/^~(?=$|[/\\])/, () => home);
}

function endpointFrom(text: string): string {
  const endpoint = text.replace(/\/+$/, "");
  if (/^https?:$/.test(URL.parse(endpoint)?.protocol ?? "")) return endpoint;
  throw new TypeError(
    `Cannot use HF_ENDPOINT: found "${text}", wanted an address such as https://huggingface.co`,
  );
}

async function tokenFrom(path: string): Promise<string | null> {
  let token = fromEnvironment("HF_TOKEN", "HUGGING_FACE_HUB_TOKEN")?.trim();
  try {
    token ||= (await Deno.readTextFile(path)).trim();
  } catch {
    // Most people have no token, and most models need none.
  }
  // Not shown: a token that is mistyped is a secret all the same.
  if (token && !/^[\x21-\x7e]+$/.test(token)) {
    throw new TypeError(
      `Cannot use the token in HF_TOKEN or "${path}": found spaces or characters beyond ASCII, wanted one word such as hf_…`,
    );
  }
  return token || null;
}

/** Reads HF_ENDPOINT, HF_TOKEN, HF_TOKEN_PATH, HF_HOME, HF_HUB_CACHE and HF_HUB_OFFLINE. */
export async function hubSettings(): Promise<HubSettings> {
  const base = fromEnvironment("XDG_CACHE_HOME") ?? "~/.cache";
  const home = expand(fromEnvironment("HF_HOME") ?? `${base}/huggingface`);
  const offline = fromEnvironment("HF_HUB_OFFLINE", "TRANSFORMERS_OFFLINE") ?? "";
  return {
    endpoint: endpointFrom(fromEnvironment("HF_ENDPOINT") ?? "https://huggingface.co"),
    token: await tokenFrom(expand(fromEnvironment("HF_TOKEN_PATH") ?? `${home}/token`)),
    cache: expand(fromEnvironment("HF_HUB_CACHE", "HUGGINGFACE_HUB_CACHE") ?? `${home}/hub`),
    isOffline: ["1", "ON", "YES", "TRUE"].includes(offline.toUpperCase()),
  };
}

/** Whether a revision can be part of a path: branches may have slashes in them, as in `refs/pr/1`. */
function isRevision(text: string): boolean {
  return /^[A-Za-z0-9_][\w.+/-]{0,199}$/.test(text) &&
    text.split("/").every((part) => part !== "" && !/^\.|\.\./.test(part));
}

/**
 * Takes `org/name` or `org/name@revision` apart. Gives null for what cannot be a model's name.
 *
 * @param text what a user wrote
 * @param needsOrg whether `name` alone, as the hub's oldest models have it, is not enough
 */
export function parseHubName(text: string, needsOrg: boolean): HubName | null {
  const [, name, , revision] = /^([^@]*)(@(.*))?$/s.exec(text) ?? [];
  const parts = (name ?? "").split("/");
  // The hub's own rules: they also keep the name apart from the folders of other models in the cache.
  const isName = parts.length <= 2 && (parts.length === 2 || !needsOrg) && name.length <= 96 &&
    parts.every((part) => /^\w([\w.-]*\w)?$/.test(part)) && !/--|\.\.|\.git$/.test(name);
  if (!isName || revision !== undefined && !isRevision(revision)) return null;
  return { name, revision };
}
