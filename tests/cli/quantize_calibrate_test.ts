import { assert, assertEquals, assertMatch } from "../assert.ts";
import { loadModel } from "../../train/models/load.ts";
import { saveModel } from "../../train/models/save.ts";
import { device } from "../device.ts";
import { enlarge } from "../tiny_models.ts";
import { nibble } from "./spawn.ts";

const ASSETS = new URL("../../assets/", import.meta.url).pathname;
const MODEL = ["--model", `${ASSETS}base`];
const HELDOUT = `${ASSETS}wordnet/heldout.txt`;
const FLAGS = [...MODEL, "--text", HELDOUT, "--tokens", "512", "--window", "128"];

Deno.test("nibble quantize calibrate reports observers, and compare takes its file", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const out = `${folder}/ranges.json`;
    const choice = ["--observer", "percentile", "--percentile", "99.9"];
    const run = await nibble("quantize", "calibrate", ...FLAGS, ...choice, "--out", out, "--json");
    assertEquals([run.code, run.stderr], [0, ""]);
    const { layers, report, tokens, observer } = JSON.parse(run.stdout);
    assertEquals([tokens, observer], [512, { kind: "percentile", percentile: 99.9 }]);
    assertEquals([layers.length, report.length], [28, 16]);
    for (const { observers, perToken, outlier, median } of report) {
      assertEquals(observers.length, 7);
      const [minMax] = observers;
      assert(perToken > minMax.sqnr && minMax.clipped === 0);
      assert(minMax.perChannel.sqnr > minMax.sqnr && minMax.perChannel.clipped === 0);
      assert(outlier.magnitude === Math.max(-outlier.range.low, outlier.range.high));
      assert(outlier.timesMedian > 1 && outlier.magnitude > median.magnitude);
    }
    const flags = [...MODEL, "--text", HELDOUT, "--limit", "512", "--window", "128", "--json"];
    const compare = (...rest: string[]) => nibble("quantize", "compare", ...flags, ...rest);
    const fixed = await compare("--schemes", "w8a8-static", "--ranges", out);
    assertEquals([fixed.code, fixed.stderr], [0, ""]);
    const own = await compare("--schemes", "w8a8-static,w8a8-dynamic");
    const perplexity = ({ stdout }: { stdout: string }) => JSON.parse(stdout).results[0].perplexity;
    // Clipping a thousandth of the numbers costs more than min-max does.
    assert(perplexity(fixed) > perplexity(own));
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize calibrate shows the largest outlier, and smooths", async () => {
  const rest = ["--smooth", "0.5", "--kind", "asymmetric"];
  const { code, stdout, stderr } = await nibble("quantize", "calibrate", ...FLAGS, ...rest);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^One range for all numbers of an input, signal to noise/m);
  assertMatch(stdout, /^One range for each of its channels, signal to noise/m);
  assertEquals(
    stdout.match(/^model\.layers\.3\.mlp\.down_proj( +\d+\.\d){7}( +\d+\.\d)?$/gm)?.length,
    2,
  );
  assertEquals(stdout.match(/^Best: .* of 16 inputs$/gm)?.length, 2);
  // A channel beside the median one, with both ranges.
  assertMatch(stdout, /^model\S+ +\d+ +\S+ … \S+ +\d+ +\S+ … \S+ +\d+\.\d$/m);
  assertMatch(stdout, /The largest outlier: [\d.]+ in channel \d+ of what .* times the median/);
  assertMatch(stdout, /Calibrated 28 layers on 512 tokens; nothing was written/);
});

Deno.test("nibble quantize calibrate warns of a text that nobody chose, and of an outlier", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = await loadModel(device, `${ASSETS}base`, { weights: "f32" });
    await enlarge(model, "model.layers.1.input_layernorm", 7, 300);
    await saveModel(model, `${folder}/model`);
    model.dispose();
    const run = (...args: string[]) =>
      nibble(
        ...["quantize", "calibrate", "--model", `${folder}/model`, "--tokens", "128"],
        ...["--window", "64", ...args],
      );
    const { code, stdout, stderr } = await run();
    assertEquals(code, 0);
    assertMatch(stdout, /in channel 7 of what model\.layers\.1\.self_attn\.q_proj, /);
    assertMatch(stderr, /^Warning: the text was definitions that come with nibble; pass --text/m);
    assertMatch(stderr, /^Warning: on 1 of 16 inputs an outlier takes the range .* --smooth 0\.5/m);
    const told = await run("--text", HELDOUT, "--observer", "mse");
    assertEquals([told.code, told.stderr], [0, ""]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize calibrate names what it cannot do", async () => {
  const run = (...args: string[]) => nibble("quantize", "calibrate", ...MODEL, ...args);
  const file = await Deno.makeTempFile();
  try {
    await Deno.writeTextFile(file, " ");
    const short = await run("--text", file);
    assertEquals(short.code, 1);
    assertMatch(short.stderr, /Cannot .*(token|empty|nothing)/);
    const percentile = await run("--percentile", "99");
    assertEquals(percentile.code, 2);
    assertMatch(percentile.stderr, /percentile/);
    const observer = await run("--observer", "guess");
    assertEquals(observer.code, 2);
    const long = await run("--window", "1000");
    assertEquals(long.code, 1);
    assertMatch(long.stderr, /windows of 1000 tokens: wanted .* to 256, the model's context/);
    const folder = await run("--out", ASSETS);
    assertEquals([folder.code, folder.stdout], [1, ""]);
    assertMatch(
      folder.stderr,
      /found a folder of that name, wanted a file; name another with --out/,
    );
    const ranges = ["--text", HELDOUT, "--schemes", "w8a8-static", "--ranges", file];
    const broken = await nibble("quantize", "compare", ...MODEL, ...ranges);
    assertEquals(broken.code, 1);
    assertMatch(broken.stderr, /activation ranges/);
  } finally {
    await Deno.remove(file);
  }
});
