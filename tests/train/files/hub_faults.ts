import { downloadModel } from "../../../train/files/hub.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "../../assert.ts";
import {
  assertAbsent,
  assertWhole,
  gitHash,
  NAME,
  names,
  setEnvironment,
  sha256,
  TestHub,
  WEIGHTS,
} from "./hub_server.ts";

const timing = { backoff: 1, silence: 2000 };

Deno.test("downloadModel() refuses a wrong length and a wrong hash", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  const refused = async (text: string) => {
    const error = await assertRejects(() => downloadModel(NAME, { timing }), RangeError, text);
    assertMatch(
      error.message,
      /^Cannot download "model.safetensors" of "org\/tiny": found .* removed/,
    );
    await assertAbsent(hub, WEIGHTS);
    const blobs = await names(`${hub.folder}/blobs`);
    assert(!blobs.some((name) => name.endsWith(".incomplete")), `left: ${blobs}`);
    await assertRejects(() => Deno.stat(`${hub.folder}/refs/main`), Deno.errors.NotFound, "");
  };
  for (const lie of [299_999, 300_001]) {
    hub.linkedSize = lie;
    await refused(`found 300000 bytes, wanted ${lie}`);
    // The same where the answer does not say how long it is.
    hub.answer = ({ host, range }) =>
      host === "cdn" && !range ? new Response(ReadableStream.from([bytes])) : undefined;
    if (lie < bytes.length) await refused(`or more bytes, wanted ${lie}`);
    hub.answer = () => undefined;
  }
  hub.linkedSize = undefined;
  hub.linkedEtag = "f".repeat(64);
  await refused(`found a file whose hash is ${sha256(bytes)}, wanted ${hub.linkedEtag}`);
  hub.linkedEtag = undefined;
  // A damaged file of the right length, and a damaged small file.
  hub.answer = ({ host }) => host === "cdn" ? new Response(bytes.toReversed()) : undefined;
  await refused(`wanted ${sha256(bytes)}`);
  const config = hub.files.get("config.json")!;
  await Deno.remove(hub.folder, { recursive: true });
  hub.answer = ({ path, method }) =>
    path.endsWith("config.json") && method === "GET"
      ? new Response(config.toReversed())
      : undefined;
  await assertRejects(
    () => downloadModel(NAME, { timing }),
    RangeError,
    `wanted ${gitHash(config)}`,
  );
  assertEquals(await names(`${hub.folder}/blobs`), []);
});

Deno.test("downloadModel() refuses a length that no disk has, and says when a disk is full", async () => {
  await using hub = await TestHub.start();
  hub.linkedSize = 2 ** 60;
  await assertRejects(() => downloadModel(NAME, { timing }), Error, `wanted ${2 ** 60}; free some`);
  await assertAbsent(hub, WEIGHTS);
  if (Deno.build.os !== "linux") return;
  hub.linkedSize = undefined;
  const sha = sha256(hub.files.get(WEIGHTS)!);
  await Deno.remove(`${hub.folder}/blobs/${sha}.incomplete`).catch(() => {});
  await Deno.symlink("/dev/full", `${hub.folder}/blobs/${sha}.incomplete`);
  await assertRejects(() => downloadModel(NAME, { timing }), Error, "found no space left");
  await assertAbsent(hub, WEIGHTS);
});

Deno.test("downloadModel() never waits for a raw server that lies about Content-Length", async () => {
  await using hub = await TestHub.start();
  const bytes = hub.files.get(WEIGHTS)!;
  using listener = Deno.listen({ port: 0, hostname: "127.0.0.1" });
  const said = [bytes.length + 10, bytes.length];
  const serving = (async () => {
    for (const length of said) {
      const connection = await listener.accept();
      await connection.read(new Uint8Array(4096));
      const head = `HTTP/1.1 200 OK\r\nContent-Length: ${length}\r\n\r\n`;
      await connection.write(new TextEncoder().encode(head));
      await connection.write(bytes.subarray(0, 1000)).catch(() => 0);
      connection.close();
    }
  })();
  hub.answer = (seen, count) => {
    if (seen.method !== "GET" || !seen.path.endsWith(WEIGHTS) || count > said.length) return;
    const location = `http://127.0.0.1:${(listener.addr as Deno.NetAddr).port}/`;
    return new Response(null, { status: 302, headers: { location } });
  };
  await assertRejects(() => downloadModel(NAME, { timing }), RangeError, "found 300010 bytes");
  await assertAbsent(hub, WEIGHTS);
  // Here the connection ends too early: what came is kept, and the next answer goes on from there.
  await downloadModel(NAME, { timing });
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  await serving;
});

Deno.test("downloadModel() says what the hub refused, and what to do", async () => {
  await using hub = await TestHub.start();
  const cases: [number, string, RegExp][] = [
    [
      401,
      "",
      /found the answer 401.*no token.*set HF_TOKEN to your token .*accept its licence on http/,
    ],
    [401, "GatedRepo", /found the answer 401.*set HF_TOKEN/],
    [
      401,
      "RepoNotFound",
      /found no model of that name.*did you mean "org\/tiny2"\?; for a private/,
    ],
    [
      403,
      "GatedRepo",
      /found the answer 403.*accept the model's licence on http.*org\/tiny, and see/,
    ],
    [404, "RepoNotFound", /found no model of that name at http.*did you mean "org\/tiny2"/],
    [410, "", /found the answer 410.*check HF_ENDPOINT/],
  ];
  for (const [status, code, wanted] of cases) {
    hub.seen.length = 0;
    hub.answer = ({ path }) => {
      if (path.includes("/revision/")) {
        return new Response(null, { status, headers: code ? { "x-error-code": code } : {} });
      }
      if (path.includes("?search=tiny")) return Response.json([{ id: "org/tiny2" }, { id: "\n" }]);
      return new Response(null, { status: 404 });
    };
    const error = await assertRejects(
      () => downloadModel(NAME, { timing }),
      Error,
      "Cannot download",
    );
    assertMatch(error.message, wanted);
    assertEquals(hub.to("/revision/main").length, 1, "no retry can help");
  }
  hub.answer = ({ path }) =>
    path.endsWith("/refs")
      ? Response.json({ branches: [{ name: "main" }], tags: [{ name: "v1" }] })
      : undefined;
  await assertRejects(
    () => downloadModel(NAME, { timing, revision: "v9" }),
    Error,
    `Cannot download "org/tiny" at revision "v9": found no revision "v9", wanted "main", "v1"`,
  );
  hub.answer = ({ path, method }) =>
    path.endsWith(WEIGHTS) && method === "HEAD" ? new Response(null, { status: 403 }) : undefined;
  await assertRejects(() => downloadModel(NAME, { timing }), Error, `"${WEIGHTS}" of "org/tiny"`);
});

Deno.test("downloadModel() waits as long as a busy hub asks, and gives up on one that stays broken", async () => {
  await using hub = await TestHub.start();
  hub.answer = ({ host, path }, count) =>
    (host === "cdn" || path.includes("/revision/")) && count < 3
      ? new Response(null, { status: 429, headers: { "retry-after": "0.2" } })
      : undefined;
  const start = performance.now();
  await downloadModel(NAME, { timing });
  assert(performance.now() - start > 780, "four waits of 0.2 s");
  await assertWhole(hub, ["config.json", WEIGHTS, "tokenizer.json"]);
  await Deno.remove(hub.folder, { recursive: true });
  for (const [status, advice] of [[500, /try later/], [429, /set HF_TOKEN/]] as const) {
    hub.seen.length = 0;
    hub.answer = () => new Response(null, { status });
    const error = await assertRejects(() => downloadModel(NAME, { timing }), Error, `${status}`);
    assertMatch(error.message, advice);
    assertEquals(hub.seen.length, 4);
    hub.answer = ({ host }) => host === "cdn" ? new Response(null, { status }) : undefined;
    await assertRejects(() => downloadModel(NAME, { timing }), Error, `"${WEIGHTS}"`);
    assertEquals(hub.seen.filter(({ host }) => host === "cdn").length, 6);
    await assertAbsent(hub, WEIGHTS);
  }
});

Deno.test("downloadModel() shows its token to the hub, and to no other host", async () => {
  await using hub = await TestHub.start();
  setEnvironment("HF_TOKEN", " hf_secret\n");
  await downloadModel(NAME, { timing });
  for (const { host, authorization } of hub.seen) {
    assertEquals(authorization, host === "hub" ? "Bearer hf_secret" : null);
  }
  assertEquals(new Set(hub.seen.map(({ host }) => host)).size, 2);
  setEnvironment("HF_TOKEN", undefined);
  await Deno.writeTextFile(`${hub.home}/token`, "hf_stored\n");
  await downloadModel(NAME, { timing });
  assertEquals(hub.seen.at(-1)!.authorization, "Bearer hf_stored");
  setEnvironment("HF_TOKEN", "hf_ sécret");
  const error = await assertRejects(() => downloadModel(NAME), TypeError, "Cannot use the token");
  assert(!error.message.includes('cret"'), "it shows the token");
  setEnvironment("HF_TOKEN", undefined);
  setEnvironment("HF_ENDPOINT", "nowhere");
  await assertRejects(
    () => downloadModel(NAME),
    TypeError,
    'Cannot use HF_ENDPOINT: found "nowhere"',
  );
});

Deno.test("downloadModel() refuses hostile names, lists and hashes", async () => {
  await using hub = await TestHub.start();
  for (const name of ["../../.bashrc", "/etc/passwd", "a\\..\\b", "C:evil", "a/../../b", "a\0b"]) {
    hub.files.set(name, new Uint8Array(1));
    await assertRejects(() => downloadModel(NAME, { timing }), RangeError, JSON.stringify(name));
    hub.files.delete(name);
  }
  const bodies = [
    "<html>",
    "null",
    "[]",
    '{"sha":"../x","siblings":[]}',
    '{"sha":"a","siblings":[3]}',
  ];
  for (const body of bodies) {
    hub.answer = () => new Response(body);
    await assertRejects(() => downloadModel(NAME, { timing }), SyntaxError, "something else than");
  }
  for (const etag of ["../../x", "a/b", "", ".."]) {
    hub.answer = () => undefined;
    hub.linkedEtag = etag;
    await assertRejects(() => downloadModel(NAME, { timing }), RangeError, "ETag");
  }
  assertEquals(await names(hub.home), []);
});
