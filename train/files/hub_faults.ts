/**
 * What went wrong with a download, and what to do about it.
 *
 * @module
 */
import { type HubClient, PassingFault, RefusedRequest } from "./hub_request.ts";

/** What was being downloaded. */
export interface DownloadPlace {
  readonly client: HubClient;
  readonly name: string;
  readonly revision: string;
  /** The file, or "" while the model itself was asked for. */
  readonly file: string;
}

const NOT_FOUND = ["RepoNotFound", "RevisionNotFound", "EntryNotFound"];

/** The error that a user sees for what a download threw. */
export async function explain(error: unknown, place: DownloadPlace): Promise<Error> {
  const { name, revision, file } = place;
  const at = revision === "main" ? "" : ` at revision "${revision}"`;
  const what = `Cannot download ${file ? `"${file}" of ` : ""}"${name}"${at}`;
  const { message } = error as Error;
  if (error instanceof RefusedRequest) {
    const isMissing = error.status === 404 || NOT_FOUND.includes(error.code);
    const reason = isMissing
      ? await explainMissing(error, place)
      : explainRefusal(error, place.client, name);
    return new Error(`${what}: ${reason}`, { cause: error });
  }
  if (error instanceof PassingFault) {
    const advice = /\b429\b/.test(message)
      ? "wait some minutes, or set HF_TOKEN: the hub lets those it knows ask more often"
      : "check the network and HF_ENDPOINT, or try later";
    const next = file ? "the same command goes on where this one ended" : "or name a folder";
    return new Error(`${what}: found ${message}, also after retries; ${advice}; ${next}`, {
      cause: error,
    });
  }
  if (/no space|ENOSPC|os error (28|112)\b/i.test(message)) {
    return new Error(
      `${what}: found no space left in "${place.client.settings.cache}", wanted more; free some, or set HF_HOME to a folder ` +
        "on another disk",
      { cause: error },
    );
  }
  const fault = `${what}: ${message}`;
  if (error instanceof RangeError) return new RangeError(fault, { cause: error });
  if (error instanceof SyntaxError) return new SyntaxError(fault, { cause: error });
  return new Error(fault, { cause: error });
}

function explainRefusal({ status, message }: RefusedRequest, client: HubClient, name: string) {
  const { endpoint, token } = client.settings;
  const page = `${endpoint}/${name}`;
  if (status === 401) {
    return `found the answer ${message} ${
      token ? "to the token that is set" : "and no token"
    }, wanted access; check the spelling, ` +
      `and for a model that is gated or private set HF_TOKEN to ${
        token ? "a valid" : "your"
      } token (${endpoint}/settings/tokens) ` +
      `and accept its licence on ${page}`;
  }
  if (status === 403) {
    return `found the answer ${message}, wanted access; accept the model's licence on ${page}, and see that HF_TOKEN is ${
      token ? "" : "set, to "
    }a token that may read it`;
  }
  return `found the answer ${message}, wanted the file; check HF_ENDPOINT (${endpoint})`;
}

/** What is missing, and what there is instead. */
async function explainMissing(
  { message, code }: RefusedRequest,
  { client, name, revision, file }: DownloadPlace,
): Promise<string> {
  const { endpoint, token } = client.settings;
  if (file) return `found no such file (${message}), though it is listed; try again later`;
  const refs = code === "RepoNotFound" ? null : await ask(client, `models/${name}/refs`);
  const { branches, tags } = Object(refs);
  if (Array.isArray(branches)) {
    const all = [...branches, ...Array.isArray(tags) ? tags : []];
    return `found no revision "${revision}", wanted ${listed(all, "name")}`;
  }
  const [word] = name.split("/").slice(-1);
  const similar = await ask(client, `models?search=${encodeURIComponent(word)}&limit=3`);
  const idea = Array.isArray(similar) && similar.length > 0
    ? `; did you mean ${listed(similar, "id")}?`
    : "; check the spelling";
  const secret = token ? "" : "; for a private one set HF_TOKEN";
  return `found no model of that name at ${endpoint} (${message})${idea}${secret}. If you mean a folder, check its path`;
}

/** Up to five names out of a list of objects, as text. */
function listed(items: readonly unknown[], key: string): string {
  const names = items.map((item) => String(Object(item)[key])).filter((own) =>
    /^[\w./-]+$/.test(own)
  );
  return names.slice(0, 5).map((own) => `"${own}"`).join(", ") || "another";
}

/** An answer of the hub's API that would be nice to have: null where there is none. */
async function ask(client: HubClient, path: string): Promise<unknown> {
  try {
    using response = await client.send(`${client.settings.endpoint}/api/${path}`);
    return await response.json();
  } catch {
    return null;
  }
}
