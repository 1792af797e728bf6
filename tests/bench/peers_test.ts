import {
  causalMask,
  gptParameters,
  oneHot,
  randomIds,
  randomNumbers,
  readChoice,
  sample,
  shapeOf,
} from "../../bench/peers/common.ts";
import { PEERS, runPeer } from "../../bench/peers/run.ts";
import { writeSmolLm2 } from "../../bench/peers/write_gguf.ts";
import { readReport } from "../../bench/report.ts";
import { loadModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertMatch, assertRejects } from "../assert.ts";
import { lacking } from "../python/python.ts";
import { device } from "../device.ts";

Deno.test("a peer's report is one that --compare reads, and tells what is missing and why", async () => {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    for (const name of ["torch", "transformers"]) {
      const text = await runPeer(name, []);
      await Deno.writeTextFile(file, text);
      const { results } = await readReport(file);
      const { skipped } = JSON.parse(text);
      // On a machine without torch nothing is measured.
      assert(results.length + skipped.length > 0, text);
      for (const { name, reason } of skipped) assert(name.length > 0 && reason.length > 5, text);
    }
  } finally {
    await Deno.remove(file);
  }
});

/** Arguments that Python's scripts refuse, with the beginning of the message. */
function wrongInPython(file: string) {
  return [
    [["torch", "--rows", file], `Cannot run the peer "torch": found ${file}, wanted a file`],
    [
      ["transformers", "--filter", "zebra"],
      "Cannot run the peer \"transformers\": found 'zebra', ",
    ],
  ] as const;
}

Deno.test("a peer's wrong arguments are one line, and nothing is installed for them", async () => {
  const file = await Deno.makeTempFile({ suffix: ".json" });
  try {
    for (
      const [[name, ...args], fault] of [
        [["jax"], 'Cannot run the peer "jax": wanted one of jax-js, tfjs, llama.cpp, torch, '],
        [["jax-js", "--gpt", "d65"], 'Cannot read --gpt: found "d65", wanted some of d64, d512'],
        [["tfjs", "--sizes", "8,x"], 'Cannot read --sizes: found "x", wanted a whole number ≥ 1'],
        [["tfjs", "--size", "8"], 'Cannot read "--size": wanted one of --sizes, --gpt, --model, '],
        [["tfjs", "--sizes"], "Cannot read --sizes: its value is missing"],
        [["llama.cpp", "--model", "no.gguf"], 'Cannot read the model "no.gguf": there is no such'],
        ...await lacking("argparse") === null ? wrongInPython(file) : [],
      ] as const
    ) {
      await assertRejects(() => runPeer(name, args), Error, fault);
    }
  } finally {
    await Deno.remove(file);
  }
  const script = new URL("../../bench/peers/run.ts", import.meta.url).pathname;
  const { code, stderr } = await new Deno.Command(Deno.execPath(), {
    args: ["run", "-A", "--quiet", script],
  }).output();
  assertEquals(code, 1);
  assertMatch(new TextDecoder().decode(stderr), /^error: Cannot run the peer "": .*\n$/);
});

Deno.test("a peer that cannot be installed is skipped", async () => {
  const path = Deno.env.get("PATH");
  // No npm, and a registry that does not answer.
  Deno.env.set("PATH", "/nowhere");
  Deno.env.set("NPM_CONFIG_REGISTRY", "http://127.0.0.1:9");
  Deno.env.set("DENO_DIR", await Deno.makeTempDir());
  try {
    const { results, skipped } = JSON.parse(await runPeer("jax-js", ["--sizes", "8"]));
    assertEquals([results, skipped[0].name], [[], "jax-js"]);
    assert(skipped[0].reason.includes("npm is not installed"), skipped[0].reason);
  } finally {
    await Deno.remove(Deno.env.get("DENO_DIR")!, { recursive: true });
    for (const name of ["NPM_CONFIG_REGISTRY", "DENO_DIR"]) Deno.env.delete(name);
    if (path !== undefined) Deno.env.set("PATH", path);
  }
});

Deno.test("peers train the GPT that nibble trains", () => {
  const { sizes, gpt: [shape], answer } = readChoice([]);
  assertEquals([sizes, shape.name, answer], [[512], "d64", 256]);
  const parameters = gptParameters(shape);
  let total = 0;
  for (const [name, numbers] of parameters) {
    const axes = shapeOf(name, shape);
    assertEquals(numbers.length, axes.reduce((product, length) => product * length, 1), name);
    total += numbers.length;
  }
  const { dim, layers, vocab, length } = shape;
  assertEquals(total, (vocab + length) * dim + layers * (12 * dim * dim + 13 * dim) + 2 * dim);
  for (const { script } of Object.values(PEERS)) {
    assert(Deno.statSync(new URL(`../../bench/peers/${script}`, import.meta.url)).isFile);
  }
});

Deno.test("peers' inputs are what they should be", () => {
  const numbers = randomNumbers(10_000, 3, 2);
  const mean = numbers.reduce((sum, own) => sum + own, 0) / numbers.length;
  const square = numbers.reduce((sum, own) => sum + own * own, 0) / numbers.length;
  assert(Math.abs(mean) < 0.1 && Math.abs(Math.sqrt(square) - 2) < 0.1, `${mean}, ${square}`);
  const ids = randomIds(1000, 7, 1);
  assertEquals(new Set(ids).size, 7);
  assert(ids.every((id) => id >= 0 && id < 7));
  assertEquals([...oneHot(Int32Array.of(2, 0), 3)], [0, 0, 1, 1, 0, 0]);
  assertEquals(Array.from(causalMask(2), (own) => own < 0), [false, true, false, false]);
});

Deno.test("sample() runs until a sample is long, and gives the time of one run", async () => {
  const wait = (count: number) => new Promise<void>((done) => setTimeout(done, 100 * count));
  const { ms, minMs, maxMs } = await sample(wait);
  assert(minMs <= ms && ms <= maxMs && ms > 90 && ms < 300, `${minMs}, ${ms}, ${maxMs}`);
});

Deno.test("writeSmolLm2() writes a file that can be loaded", async () => {
  const folder = await Deno.makeTempDir();
  try {
    await writeSmolLm2(`${folder}/tiny.gguf`, true);
    const model = await loadModel(device, `${folder}/tiny.gguf`);
    assertEquals(model.config.layers, 2);
    model.dispose();
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
