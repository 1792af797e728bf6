// Both set the environment, which test files that run at the same time share: so they are one.
import "./hub_faults.ts";
import { downloadModel, type DownloadProgress, resolveModel } from "../../../train/files/hub.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "../../assert.ts";
import {
  assertAbsent,
  assertWhole,
  COMMIT,
  cutAfter,
  gitHash,
  NAME,
  names,
  ranged,
  setEnvironment,
  sha256,
  TestHub,
  WEIGHTS,
} from "./hub_server.ts";

const timing = { backoff: 1, silence: 2000 };

Deno.test("downloadModel() fills the hub's own cache, and no more than it needs", async () => {
  await using hub = await TestHub.start();
  const told: DownloadProgress[] = [];
  const onProgress = (one: DownloadProgress) => void told.push(one);
  const folder = await downloadModel(NAME, { timing, onProgress });
  assertEquals(folder, hub.snapshot);
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  assertEquals(await names(hub.folder), ["blobs", "refs", "snapshots"]);
  assertEquals(await Deno.readTextFile(`${hub.folder}/refs/main`), COMMIT);
  const links: Record<string, string> = {};
  for (const name of await names(folder)) links[name] = await Deno.readLink(`${folder}/${name}`);
  assertEquals(links, {
    "config.json": `../../blobs/${gitHash(hub.files.get("config.json")!)}`,
    [WEIGHTS]: `../../blobs/${sha256(hub.files.get(WEIGHTS)!)}`,
    "tokenizer.json": `../../blobs/${gitHash(hub.files.get("tokenizer.json")!)}`,
  });
  const total = ["config.json", WEIGHTS, "tokenizer.json"]
    .reduce((sum, name) => sum + hub.files.get(name)!.length, 0);
  assertEquals(told.at(-1), { file: WEIGHTS, done: total, total });
  assert(told.every(({ done }, i) => i === 0 || done >= told[i - 1].done), "it ran backwards");

  hub.seen.length = 0;
  assertEquals(await downloadModel(NAME, { timing }), folder);
  assertEquals(hub.seen.map(({ path }) => path), ["/api/models/org/tiny/revision/main"]);
  await hub.stop();
  assertEquals(await downloadModel(NAME, { timing }), folder, "the hub is down");
  setEnvironment("HF_HUB_OFFLINE", "1");
  assertEquals(await downloadModel(NAME, { timing }), folder, "offline");
  assertEquals(await downloadModel(NAME, { timing, revision: COMMIT }), folder, "by its commit");
  await assertRejects(
    () => downloadModel(NAME, { timing, revision: "v2" }),
    Error,
    `Cannot open "org/tiny" at revision "v2" from the cache`,
  );
  await Deno.remove(`${hub.folder}/blobs/${sha256(hub.files.get(WEIGHTS)!)}`);
  await assertRejects(() => downloadModel(NAME, { timing }), Error, "wanted weights");
});

Deno.test("downloadModel() takes revisions, and shares blobs between them", async () => {
  await using hub = await TestHub.start();
  await downloadModel(NAME, { timing });
  hub.commit = "f".repeat(40);
  hub.files.set("config.json", new TextEncoder().encode('{"model_type": "mistral"}'));
  await downloadModel(NAME, { timing, revision: "refs/pr/1" });
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  assertEquals(await Deno.readTextFile(`${hub.folder}/refs/refs/pr/1`), hub.commit);
  assertEquals(await Deno.readTextFile(`${hub.folder}/refs/main`), COMMIT);
  assertEquals(hub.seen.filter(({ host }) => host === "cdn").length, 1);
  for (const revision of ["../x", "a//b", "/etc", "a\\b", "", "-x", ".."]) {
    await assertRejects(() => downloadModel(NAME, { revision }), RangeError, "Cannot download");
  }
});

Deno.test("downloadModel() goes on where a connection was cut", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  hub.answer = ({ host, range }, count) => {
    if (host !== "cdn" || count > 4) return undefined;
    const part = ranged(bytes, range);
    const from = Number(/\d+/.exec(range ?? "0")![0]);
    const init = { status: part.status, headers: part.headers };
    return cutAfter(bytes.subarray(from), 50_000, init);
  };
  await downloadModel(NAME, { timing });
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  const ranges = hub.seen.filter(({ host }) => host === "cdn").map(({ range }) => range);
  assertEquals(ranges[0], null);
  assertEquals(ranges.slice(1), [
    "bytes=50000-",
    "bytes=100000-",
    "bytes=150000-",
    "bytes=200000-",
  ]);
});

Deno.test("downloadModel() goes on in a later run, and with servers that know no ranges", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  const partial = `${hub.folder}/blobs/${sha256(bytes)}.incomplete`;
  hub.answer = ({ host, range }) => {
    if (host !== "cdn") return undefined;
    return range ? new Response(null, { status: 503 }) : cutAfter(bytes, 70_000);
  };
  const error = await assertRejects(() => downloadModel(NAME, { timing }), Error, "503");
  assertMatch(
    error.message,
    /Cannot download "model.safetensors" of "org\/tiny": found .* try later/,
  );
  await assertAbsent(hub, WEIGHTS);
  assertEquals((await Deno.stat(partial)).size, 70_000);
  hub.seen.length = 0;
  hub.answer = ({ host, range }) => {
    if (host !== "cdn") return undefined;
    assertEquals(range, "bytes=70000-");
    return new Response(bytes); // 200: all of it, from the start
  };
  await downloadModel(NAME, { timing });
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  assertEquals(hub.to("config.json", "HEAD"), []);

  // What lies there may be of anything: then the whole in one piece decides.
  for (const junk of [new Uint8Array(70_000), new Uint8Array(400_000), new Uint8Array(300_000)]) {
    await Deno.remove(hub.folder, { recursive: true });
    await Deno.mkdir(`${hub.folder}/blobs`, { recursive: true });
    await Deno.writeFile(partial, junk);
    hub.answer = () => undefined;
    await downloadModel(NAME, { timing });
    await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  }
});

Deno.test("downloadModel() stops when it is told to, and when a server falls silent", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  const stop = new AbortController();
  await assertRejects(
    () =>
      downloadModel(NAME, {
        timing,
        signal: stop.signal,
        onProgress: ({ done }) => done > 1000 && stop.abort(new Error("enough")),
      }),
    Error,
    "enough",
  );
  await assertAbsent(hub, WEIGHTS);
  let silent = 0;
  hub.answer = ({ host }) => {
    if (host !== "cdn" || silent++ > 0) return undefined;
    return new Response(new ReadableStream({ start: (own) => own.enqueue(bytes.subarray(0, 9)) }));
  };
  await downloadModel(NAME, { timing: { backoff: 1, silence: 100 } });
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
});

Deno.test("downloadModel() takes shards, adapters and models without weights", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  const encode = (text: string) => new TextEncoder().encode(text);
  const shards = ["model-00001-of-00002.safetensors", "model-00002-of-00002.safetensors"];
  hub.files.delete(WEIGHTS);
  await assertRejects(
    () => downloadModel(NAME, { timing }),
    RangeError,
    "wanted weights in safetensors",
  );
  const folder = await downloadModel(NAME, { timing, weights: false });
  assertEquals(await names(folder), ["config.json", "tokenizer.json"]);
  const index = (map: Record<string, unknown>) =>
    hub.files.set(`${WEIGHTS}.index.json`, encode(JSON.stringify({ weight_map: map })));
  const clean = () => Deno.remove(hub.folder, { recursive: true });
  for (const shard of ["../x", "missing.safetensors", 3, "onnx/model.onnx"]) {
    index({ a: shard });
    await clean();
    await assertRejects(() => downloadModel(NAME, { timing }), RangeError, JSON.stringify(shard));
  }
  await clean();
  index({ a: shards[0], b: shards[1], c: shards[0] });
  shards.forEach((name, i) => hub.files.set(name, bytes.slice(i * 1000)));
  await downloadModel(NAME, { timing });
  await assertWhole(hub, ["config.json", "tokenizer.json", `${WEIGHTS}.index.json`, ...shards]);
  setEnvironment("HF_HUB_OFFLINE", "1");
  await downloadModel(NAME, { timing });
  await Deno.remove(`${hub.snapshot}/${shards[1]}`);
  await assertRejects(() => downloadModel(NAME, { timing }), Error, shards[1]);
  setEnvironment("HF_HUB_OFFLINE", undefined);
  await clean();
  hub.files.clear();
  hub.files.set("README.md", encode("#"));
  await assertRejects(() => downloadModel(NAME, { timing }), RangeError, "found README.md, wanted");
  hub.files.set("adapter_config.json", encode("{}"));
  hub.files.set("adapter_model.safetensors", bytes);
  await downloadModel(NAME, { timing });
  await assertWhole(hub, ["adapter_config.json", "adapter_model.safetensors"]);
});

Deno.test("downloadModel() fetches a blob once for many who want it", async () => {
  await using hub = await TestHub.start();
  const all = await Promise.all([1, 2, 3].map(() => downloadModel(NAME, { timing })));
  assertEquals(new Set(all), new Set([hub.snapshot]));
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  assertEquals(hub.seen.filter(({ host }) => host === "cdn").length, 1);
});

Deno.test("downloadModel() puts files into the snapshot where there are no links", async () => {
  await using hub = await TestHub.start();
  const { symlink } = Deno;
  Deno.symlink = () => Promise.reject(new Deno.errors.PermissionDenied("no links here"));
  try {
    await downloadModel(NAME, { timing });
    await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
    assertEquals(await names(`${hub.folder}/blobs`), []);
    hub.seen.length = 0;
    await downloadModel(NAME, { timing });
    assertEquals(hub.seen.length, 1);
  } finally {
    Deno.symlink = symlink;
  }
});

Deno.test("resolveModel() leaves what is here, and what is no name, as it is", async () => {
  await using hub = await TestHub.start();
  const here = await Deno.makeTempDir();
  const before = Deno.cwd();
  try {
    Deno.chdir(here);
    await Deno.mkdir("org/tiny", { recursive: true });
    const paths = [
      "org/tiny",
      "./org/x",
      "models/x.gguf",
      "/org/x",
      "a/b/c",
      "gpt2",
      "a--b/c",
      "org/",
      "a/b@",
      "a\\b/c",
    ];
    for (const path of paths) assertEquals(await resolveModel(path, { timing }), path);
    assertEquals(hub.seen, []);
    await Deno.remove("org", { recursive: true });
    assertEquals(await resolveModel("org/tiny", { timing }), hub.snapshot);
    assertEquals(await resolveModel("org/tiny@v1", { timing }), hub.snapshot);
    assertEquals(await Deno.readTextFile(`${hub.folder}/refs/v1`), COMMIT);
  } finally {
    Deno.chdir(before);
    await Deno.remove(here, { recursive: true });
  }
});
