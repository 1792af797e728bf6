/** Commands on a model of the Hugging Face hub, which here is a server on this machine. */
import { trainBpe } from "../../train/data/bpe.ts";
import { Tokenizer } from "../../train/files/tokenizer.ts";
import { loadModel, randomModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { device } from "../device.ts";
import {
  assertWhole,
  NAME,
  setEnvironment,
  sha256,
  TestHub,
  weightBytes,
  WEIGHTS,
} from "../train/files/hub_server.ts";
import { nibble, spawnNibble } from "./spawn.ts";

const FILES = ["config.json", WEIGHTS, "tokenizer.json", "tokenizer_config.json"];

/** A hub with a model that can be loaded. */
async function startHub(): Promise<TestHub> {
  const hub = await TestHub.start();
  const model = randomModel(device, {
    model_type: "llama",
    vocab_size: 257,
    hidden_size: 16,
    intermediate_size: 32,
    num_hidden_layers: 1,
    num_attention_heads: 2,
    max_position_embeddings: 48,
  }, { seed: 1 });
  model.tokenizer = new Tokenizer(trainBpe([], { vocabSize: 257, specialTokens: ["<end>"] }), {
    config: { "eos_token": "<end>" },
  });
  const folder = `${hub.home}/made`;
  await saveModel(model, folder);
  hub.files.clear();
  for await (const { name } of Deno.readDir(folder)) {
    hub.files.set(name, await Deno.readFile(`${folder}/${name}`));
  }
  return hub;
}

Deno.test("nibble downloads the model that --model names, once, and shows it on stderr", async () => {
  await using hub = await startHub();
  const { code, stdout, stderr } = await nibble("inspect", NAME, "--json");
  assertEquals(code, 0, stderr);
  assertEquals(JSON.parse(stdout).path, hub.snapshot);
  assertMatch(stderr, /^Downloading org\/tiny, MB .*1\/1 · file model\.safetensors$/m);
  for (const name of FILES) assert(hub.files.has(name), name);
  await assertWhole(
    hub,
    FILES.concat(hub.files.has("generation_config.json") ? ["generation_config.json"] : []),
  );

  const data = `${hub.home}/set.jsonl`;
  await Deno.writeTextFile(data, '{"prompt": "a", "answer": "b"}\n'.repeat(4));
  const adapter = `${hub.home}/adapter`;
  const flags = ["--data", data, "--out", adapter, "--steps", "1", "--length", "16", "--r", "1"];
  const again = [["train", ...flags], ["train", ...flags], [
    "generate",
    "a",
    "--max-new-tokens",
    "2",
  ]];
  hub.seen.length = 0;
  for (const args of again) {
    const { code, stderr } = await nibble(...args, "--model", `${NAME}@main`);
    assertEquals(code, 0, stderr);
    assert(!stderr.includes("Downloading"), stderr);
  }
  assertEquals(
    new Set(hub.seen.map(({ path }) => path)),
    new Set(["/api/models/org/tiny/revision/main"]),
  );
  const config = JSON.parse(await Deno.readTextFile(`${adapter}/adapter_config.json`));
  assertEquals(config.base_model_name_or_path, NAME);

  setEnvironment("HF_HUB_OFFLINE", "1");
  hub.seen.length = 0;
  const model = await loadModel(device, NAME);
  assertEquals(model.config.vocabSize, 257);
  assertEquals(hub.seen, []);
});

Deno.test("nibble says in one line that the hub has no such model", async () => {
  await using hub = await startHub();
  hub.answer = () => new Response(null, { status: 404 });
  const { code, stdout, stderr } = await nibble("inspect", "org/none");
  assertEquals([code, stdout], [1, ""]);
  assertMatch(
    stderr,
    /^error: Cannot download "org\/none": found no model .* a folder, check its path$/m,
  );
  assert(!/^ +at /m.test(stderr), stderr);
});

Deno.test("nibble killed in the middle of a download leaves no half file, and goes on from there", async () => {
  await using hub = await startHub();
  const bytes = weightBytes(5_000_000);
  hub.files.set(WEIGHTS, bytes);
  const sent = Promise.withResolvers<void>();
  hub.answer = ({ host, range }) => {
    if (host !== "cdn" || range) return undefined;
    let at = 0;
    // Half of it comes, and then nothing.
    const body = new ReadableStream({
      async pull(controller) {
        if (at >= bytes.length / 2) {
          sent.resolve();
          return await new Promise(() => {});
        }
        controller.enqueue(bytes.subarray(at, at += 100_000));
      },
    });
    return new Response(body, { headers: { "content-length": `${bytes.length}` } });
  };
  const partial = `${hub.folder}/blobs/${sha256(bytes)}.incomplete`;
  const child = spawnNibble(["inspect", NAME]);
  await sent.promise;
  while (((await Deno.stat(partial).catch(() => null))?.size ?? 0) < 2_000_000) {
    await new Promise((done) => setTimeout(done, 20));
  }
  child.kill("SIGKILL");
  await child.output();
  assert(!(await Deno.stat(`${hub.snapshot}/${WEIGHTS}`).catch(() => null)), "half a file");

  const { code, stderr } = await nibble("inspect", NAME);
  assertEquals(code, 1, "these bytes are no safetensors file");
  assertMatch(stderr, /safetensors/);
  assert(hub.seen.some(({ host, range }) => host === "cdn" && /^bytes=\d{7}-$/.test(range ?? "")));
  assertEquals(sha256(await Deno.readFile(`${hub.snapshot}/${WEIGHTS}`)), sha256(bytes));
});
