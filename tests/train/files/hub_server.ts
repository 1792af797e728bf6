/** A Hugging Face hub in miniature, on two ports of this machine: the hub, and the host that has the large files. */
import { createHash } from "node:crypto";
import { assert, assertEquals, assertRejects } from "../../assert.ts";

/** A request that came. */
export interface Seen {
  readonly host: "hub" | "cdn";
  readonly method: string;
  readonly path: string;
  readonly range: string | null;
  readonly authorization: string | null;
}

/** Gives the answer in place of the usual one, or nothing. */
export type Answer = (seen: Seen, count: number) => Response | undefined | Promise<Response>;

export const WEIGHTS = "model.safetensors";
export const NAME = "org/tiny";
export const COMMIT = "0123456789abcdef0123456789abcdef01234567";

export function sha256(bytes: Uint8Array): string {
  return createHash("sha256").update(bytes).digest("hex");
}

export function gitHash(bytes: Uint8Array): string {
  return createHash("sha1").update(`blob ${bytes.length}\0`).update(bytes).digest("hex");
}

/** Bytes that look like weights: no two parts are alike. */
export function weightBytes(length: number): Uint8Array<ArrayBuffer> {
  let state = 7;
  return Uint8Array.from({ length }, () => (state = (state * 1103515245 + 12345) >>> 0) >>> 24);
}

/** The usual files of a model. */
export function tinyFiles(): Map<string, Uint8Array<ArrayBuffer>> {
  const encode = (text: string) => new TextEncoder().encode(text);
  return new Map([
    [".gitattributes", encode("*.safetensors filter=lfs")],
    ["README.md", encode("# tiny")],
    ["config.json", encode('{"model_type": "llama"}')],
    ["model.safetensors", weightBytes(300_000)],
    ["pytorch_model.bin", weightBytes(10)],
    ["tokenizer.json", encode('{"model": {}}')],
    ["onnx/model.onnx", weightBytes(10)],
  ]);
}

/** A part of some bytes, as a server sends it that knows ranges. */
export function ranged(bytes: Uint8Array<ArrayBuffer>, range: string | null): Response {
  const from = Number(/^bytes=(\d+)-$/.exec(range ?? "")?.[1] ?? 0);
  if (from === 0) return new Response(bytes, { headers: { "content-length": `${bytes.length}` } });
  if (from >= bytes.length) {
    return new Response(null, {
      status: 416,
      headers: { "content-range": `bytes */${bytes.length}` },
    });
  }
  return new Response(bytes.subarray(from), {
    status: 206,
    headers: { "content-range": `bytes ${from}-${bytes.length - 1}/${bytes.length}` },
  });
}

/** A whole answer that breaks off after so many bytes. */
export function cutAfter(bytes: Uint8Array<ArrayBuffer>, end: number, init: ResponseInit = {}) {
  let isSent = false;
  const body = new ReadableStream({
    async pull(controller) {
      if (!isSent) controller.enqueue(bytes.subarray(0, end));
      else {
        // The bytes shall be on their way before the connection breaks.
        await new Promise((done) => setTimeout(done, 30));
        controller.error(new Error("cut"));
      }
      isSent = true;
    },
  });
  return new Response(body, init);
}

/** A hub with one model, whose environment variables are set while it lives. */
export class TestHub implements AsyncDisposable {
  readonly files = tinyFiles();
  readonly seen: Seen[] = [];
  /** Answers for requests, tried first. */
  answer: Answer = () => undefined;
  commit = COMMIT;
  /** The size that is said of a large file, if it is a lie. */
  linkedSize?: number;
  /** The hash that is said of a large file, if it is a lie. */
  linkedEtag?: string;
  readonly home: string;
  readonly #servers: Deno.HttpServer<Deno.NetAddr>[];
  readonly #old: [string, string | undefined][];

  private constructor(home: string) {
    this.home = home;
    const serve = (host: "hub" | "cdn") =>
      Deno.serve(
        { port: 0, hostname: "127.0.0.1", onListen() {}, onError: () => new Response(null) },
        (request) => this.#serve(host, request),
      );
    this.#servers = [serve("hub"), serve("cdn")];
    const environment: Record<string, string | undefined> = {
      HF_ENDPOINT: `${this.url("hub")}/`,
      HF_HOME: home,
      HF_TOKEN: undefined,
      HUGGING_FACE_HUB_TOKEN: undefined,
      HF_TOKEN_PATH: undefined,
      HF_HUB_CACHE: undefined,
      HUGGINGFACE_HUB_CACHE: undefined,
      HF_HUB_OFFLINE: undefined,
      TRANSFORMERS_OFFLINE: undefined,
    };
    this.#old = Object.keys(environment).map((name) => [name, Deno.env.get(name)]);
    for (const [name, value] of Object.entries(environment)) setEnvironment(name, value);
  }

  static async start(): Promise<TestHub> {
    return new TestHub(await Deno.makeTempDir());
  }

  url(host: "hub" | "cdn"): string {
    return `http://127.0.0.1:${this.#servers[host === "hub" ? 0 : 1].addr.port}`;
  }

  /** The model's folder in the cache. */
  get folder(): string {
    return `${this.home}/hub/models--org--tiny`;
  }

  get snapshot(): string {
    return `${this.folder}/snapshots/${this.commit}`;
  }

  /** The requests to a path that ends so. */
  to(end: string, method = "GET"): Seen[] {
    return this.seen.filter((own) => own.path.endsWith(end) && own.method === method);
  }

  async stop(): Promise<void> {
    await Promise.all(this.#servers.map((server) => server.shutdown()));
  }

  async [Symbol.asyncDispose](): Promise<void> {
    for (const [name, value] of this.#old) setEnvironment(name, value);
    await this.stop();
    await Deno.remove(this.home, { recursive: true });
  }

  async #serve(host: "hub" | "cdn", request: Request): Promise<Response> {
    const { pathname, search } = new URL(request.url);
    const seen = {
      host,
      method: request.method,
      path: `${host === "cdn" ? "/cdn" : ""}${decodeURIComponent(pathname)}${search}`,
      range: request.headers.get("range"),
      authorization: request.headers.get("authorization"),
    };
    this.seen.push(seen);
    const count =
      this.seen.filter(({ path, method }) => path === seen.path && method === seen.method).length;
    return await this.answer(seen, count) ?? this.usual(seen);
  }

  /** The answer of a hub in good health. */
  usual({ host, path, range }: Seen): Response {
    const missing = new Response("Not here", { status: 404, headers: { "x-error-code": "X" } });
    if (host === "cdn") {
      const file = [...this.files.values()].find((bytes) => path === `/cdn/${sha256(bytes)}`);
      return file ? ranged(file, range) : missing;
    }
    if (/^\/api\/models\/org\/tiny\/revision\/(main|v1|refs\/pr\/1|[0-9a-f]{40})$/.test(path)) {
      const siblings = [...this.files.keys()].map((rfilename) => ({ rfilename }));
      return Response.json({ id: NAME, sha: this.commit, siblings });
    }
    const [, name] = /^\/org\/tiny\/resolve\/[^/]+\/(.*)$/.exec(path) ?? [];
    const bytes = this.files.get(name);
    if (!bytes) return missing;
    const commit = { "x-repo-commit": this.commit };
    if (!name.endsWith(".safetensors")) {
      const headers = {
        ...commit,
        etag: `"${gitHash(bytes)}"`,
        "content-length": `${bytes.length}`,
      };
      return new Response(bytes, { headers });
    }
    return new Response(null, {
      status: 302,
      headers: {
        ...commit,
        location: `${this.url("cdn")}/${sha256(bytes)}`,
        "x-linked-etag": `"${this.linkedEtag ?? sha256(bytes)}"`,
        "x-linked-size": `${this.linkedSize ?? bytes.length}`,
      },
    });
  }
}

export function setEnvironment(name: string, value: string | undefined): void {
  if (value === undefined) Deno.env.delete(name);
  else Deno.env.set(name, value);
}

/** The names in a folder, in order. */
export async function names(folder: string): Promise<string[]> {
  return (await Array.fromAsync(Deno.readDir(folder))).map(({ name }) => name).sort();
}

/** Every file of the snapshot is whole, and no blob is partial. */
export async function assertWhole(hub: TestHub, files: readonly string[]): Promise<void> {
  assertEquals(await names(hub.snapshot), [...files].sort());
  for (const file of files) {
    const content = await Deno.readFile(`${hub.snapshot}/${file}`);
    assert(sha256(content) === sha256(hub.files.get(file)!), `${file} differs`);
  }
  const blobs = await names(`${hub.folder}/blobs`);
  assert(!blobs.some((name) => name.endsWith(".incomplete")), `partial: ${blobs}`);
}

/** A file is neither in the snapshot nor whole among the blobs. */
export async function assertAbsent(hub: TestHub, file: string): Promise<void> {
  await assertRejects(() => Deno.lstat(`${hub.snapshot}/${file}`), Deno.errors.NotFound, "");
  const blobs = await names(`${hub.folder}/blobs`).catch((): string[] => []);
  const [sha, lie] = [sha256(hub.files.get(file)!), hub.linkedEtag];
  assert(!blobs.includes(sha) && !(lie && blobs.includes(lie)), `there: ${blobs}`);
}
