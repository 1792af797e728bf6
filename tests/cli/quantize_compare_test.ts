import { saveGguf } from "../../train/models/gguf_export.ts";
import { loadModel } from "../../train/models/load.ts";
import { device } from "../device.ts";
import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

const ASSETS = new URL("../../assets/", import.meta.url).pathname;
const FLAGS = ["--model", `${ASSETS}base`, "--text", `${ASSETS}wordnet/heldout.txt`];

Deno.test("nibble quantize compare --json gives each scheme's perplexity, bytes and errors", async () => {
  const rest = ["--limit", "1024", "--window", "128", "--json"];
  const schemes = ["--schemes", "f32,int8,nf4-dq,gptq,int4-tensor"];
  const calibration = ["--calibration", `${ASSETS}wordnet/validation.jsonl`]
    .concat("--calibration-tokens", "2048");
  const { code, stdout, stderr } = await nibble(
    ...["quantize", "compare", ...FLAGS, ...rest, ...schemes, ...calibration],
  );
  assertEquals([code, stderr], [0, ""]);
  const { results, tokens, window } = JSON.parse(stdout);
  assertEquals([tokens, window], [1024, 128]);
  const names = results.map(({ scheme }: { scheme: string }) => scheme);
  assertEquals(names, ["f32", "int8", "nf4-dq", "gptq", "int4-tensor"]);
  const [f32, int8, nf4] = results;
  assert(int8.perplexity < 1.005 * f32.perplexity);
  assert(nf4.perplexity > f32.perplexity && nf4.perplexity < 1.1 * f32.perplexity);
  assertEquals([f32.lossChange, f32.divergence, f32.agreement, f32.sqnr], [0, 0, 1, null]);
  assert(f32.bytes > 2 * int8.bytes && int8.bytes > nf4.bytes);
  for (const own of results) assert(own.memory > own.bytes, own.scheme);
  for (const own of results.slice(1)) {
    assert(own.sqnr > 12 && own.divergence > 0 && own.largestError > own.meanError, own.scheme);
    assert(own.leastCosine > 0.95 && own.lossChangeInterval > 0, own.scheme);
    // Each layer's own errors, of which the whole's are made.
    assertEquals(own.layers.length, 28);
    const of = (key: string) => own.layers.map((layer: Record<string, number>) => layer[key]);
    assertEquals(Math.min(...of("cosine")), own.leastCosine);
    assertEquals(Math.max(...of("largestError")), own.largestError);
    assert(Math.min(...of("sqnr")) <= own.sqnr && own.sqnr <= Math.max(...of("sqnr")));
    assert(Math.abs(f32.accuracy - own.accuracy - own.accuracyDrop) < 1e-12, own.scheme);
    // What is lost or won is among the places where the likeliest token is another one.
    const other = 1 - own.agreement;
    assert(own.accuracyDropInterval > 0 && own.accuracyDrop <= other, own.scheme);
    assert(own.accuracyDropInterval <= 1.96 * Math.sqrt(1016 * other + 1) / 1016, own.scheme);
  }
  assert(f32.accuracy > 0.3 && f32.accuracy < 0.6 && f32.accuracyDrop === 0);
  assertEquals([f32.answered, f32.layers], [null, []]);
  const [first] = int8.layers;
  assertEquals(first.layer, "model.layers.0.self_attn.q_proj");
});

Deno.test("nibble quantize compare counts right answers, and says what to make of the drop", async () => {
  const folder = await Deno.makeTempDir();
  try {
    // The model answers none of them, whatever it is in: it was not taught where answers end.
    const data = `${folder}/answers.jsonl`;
    const examples = [["a large", " a"], ["a tool for", " a"], ["of or relating", " to"]];
    const lines = examples.map(([prompt, answer]) => JSON.stringify({ prompt, answer }));
    await Deno.writeTextFile(data, lines.join("\n"));
    const flags = [...FLAGS, "--limit", "512", "--window", "128", "--schemes", "f32,fp4,gptq"];
    const more = ["--data", data, "--calibration-tokens", "512"];
    const run = (...args: string[]) => nibble("quantize", "compare", ...flags, ...more, ...args);
    const { code, stdout, stderr } = await run();
    assertEquals(code, 0);
    for (
      const line of [
        /accuracy +drop +same token/,
        /least cosine +of +memory +answers right +drop/,
        /^fp4 .* model\.layers\.\d\./m,
        /^Drop of the accuracy (under 5 %|that so few).*: .*(fp4|gptq)/m,
        /^All layers have the same bits here, .*: nibble quantize sensitivity finds/m,
      ]
    ) assertMatch(stdout, line);
    // None of none is no drop that critical uses want; nor is one that so short a text finds under 1 %.
    assert(!/under 1 %/.test(stdout), stdout);
    const few = await nibble(
      ...["quantize", "compare", ...FLAGS, "--limit", "30", "--schemes", "f32,int8"],
    );
    assertMatch(
      few.stdout,
      /^Drop of the accuracy that so few places or answers do not settle: int8$/m,
    );
    // The text that is measured has more, and that is what GPTQ looks at.
    assertMatch(stderr, /^Warning: gptq looked at definitions that come with nibble: pass --cal/m);
    assert(!/and will do worse/.test(stderr), stderr);
    const whole = await Deno.readTextFile(`${ASSETS}wordnet/heldout.txt`);
    await Deno.writeTextFile(`${folder}/short.txt`, whole.slice(0, 2000));
    const same = await nibble(
      ...["quantize", "compare", "--model", `${ASSETS}base`, "--text", `${folder}/short.txt`],
      ...["--window", "128", "--schemes", "awq", "--calibration", `${folder}/short.txt`, "--json"],
    );
    assertEquals([same.code, same.stderr], [0, ""]);
    const { warnings, results: [awq] } = JSON.parse(same.stdout);
    assertMatch(warnings[0], /awq looked at the text that is measured, and will do worse/);
    assertEquals([warnings.length, awq.scheme], [1, "awq"]);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize compare measures activations in 8 bits", async () => {
  const rest = ["--limit", "1024", "--window", "128", "--json", "--calibration-tokens", "2048"];
  const names = ["int8", "w8a8-dynamic", "w8a8-static", "w8a8-smooth", "int4", "w4a8"]
    .concat("w8a8-rotated", "w4a8-rotated");
  const { code, stdout, stderr } = await nibble(
    ...["quantize", "compare", ...FLAGS, ...rest],
    ...["--schemes", names.join(), "--calibration", `${ASSETS}wordnet/validation.jsonl`],
  );
  assertEquals([code, stderr], [0, ""]);
  const { results } = JSON.parse(stdout);
  assertEquals(results.map(({ scheme }: { scheme: string }) => scheme), names);
  const [int8, dynamic, fixed, smooth, int4, w4a8, turned, turned4] = results;
  // Activations cost something on top of the same weights, most where one scale is for all tokens.
  for (const own of [dynamic, fixed, smooth]) {
    assertEquals(own.bytes, int8.bytes);
    assert(own.divergence > int8.divergence && own.lossChange < 0.02, own.scheme);
  }
  assertEquals([dynamic.sqnr, fixed.sqnr], [int8.sqnr, int8.sqnr]);
  assert(fixed.divergence > dynamic.divergence && smooth.divergence < fixed.divergence);
  assert(w4a8.bytes === int4.bytes && w4a8.divergence > dynamic.divergence);
  // All layers static, where "smooth" leaves one of seven in 32 bits.
  assert(turned4.divergence < w4a8.divergence && turned4.bytes < 1.05 * w4a8.bytes);
  assert(turned.divergence < 0.5 * fixed.divergence && turned.bytes < 1.05 * int8.bytes);
});

Deno.test("nibble quantize compare names what it cannot do", async () => {
  const run = (...args: string[]) => nibble("quantize", "compare", ...FLAGS, ...args);
  const wrong = await run("--schemes", "f32,int5");
  assertEquals(wrong.code, 2);
  assertMatch(wrong.stderr, /found "int5", wanted some of f32, int8, int4, int3.*; did you mean/);
  const long = await run("--window", "5000", "--schemes", "f32", "--limit", "200");
  assertEquals(long.code, 1);
  assertEquals(long.stdout, "");
  assertMatch(
    long.stderr,
    /Cannot evaluate in windows of 5000 tokens: wanted .* to 256, the model/,
  );
  const idle: [string[], RegExp][] = [
    [["--ranges", "r.json"], /--ranges: wanted the scheme w8a8-static with it/],
    [["--keep", "0.2"], /--keep: wanted the scheme split with it/],
    [["--calibration", "x"], /--calibration: none of the schemes looks at a text: leave it out/],
    // The defaults, too, are of no use here.
    [["--calibration-tokens", "8192"], /--calibration-tokens: none of the schemes/],
    [["--keep", "0.1"], /--keep: wanted the scheme split with it/],
    [["--examples", "3"], /--examples: wanted --data with it/],
  ];
  for (const [args, message] of idle) {
    const { code, stderr } = await run("--schemes", "f32,int8", ...args);
    assertEquals(code, 2);
    assertMatch(stderr, message);
  }
});

Deno.test("nibble quantize compare measures a policy", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const policy = `${folder}/policy.json`;
    const rules = [{ layers: ["down_proj", "o_proj"], scheme: "int8" }];
    await Deno.writeTextFile(policy, JSON.stringify({ rules, otherwise: "int4" }));
    const more = ["--limit", "512", "--window", "128", "--json", "--schemes", "int8,int4"];
    const run = (...args: string[]) => nibble("quantize", "compare", ...FLAGS, ...more, ...args);
    const { code, stdout, stderr } = await run("--policy", policy);
    assertEquals([code, stderr], [0, ""]);
    const [int8, int4, mixed] = JSON.parse(stdout).results;
    assertEquals(mixed.scheme, "policy");
    assert(int4.bitsPerWeight < mixed.bitsPerWeight && mixed.bitsPerWeight < int8.bitsPerWeight);
    assert(int8.divergence < mixed.divergence && mixed.divergence < int4.divergence);

    await Deno.writeTextFile(policy, JSON.stringify({ rules: [{ layers: "x", scheme: "int8" }] }));
    const none = await run("--policy", policy);
    assertEquals(none.code, 1);
    // Before anything was measured: there is nothing but an empty stdout.
    assertEquals(none.stdout, "");
    assertMatch(none.stderr, /rule 1 of the policy: "x" names no layer/);
    const missing = await run("--schemes", "policy");
    assertEquals(missing.code, 2);
    assertMatch(missing.stderr, /wanted --policy/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize compare begins with plain weights, whatever the file has", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const model = await loadModel(device, `${ASSETS}base`);
    await saveGguf(model, `${folder}/base.gguf`, { type: "q4_0" });
    model.dispose();
    const flags = ["--text", `${ASSETS}wordnet/heldout.txt`, "--limit", "512", "--window", "128"];
    const rest = ["--schemes", "f32,awq,w8a8-smooth", "--calibration-tokens", "512", "--json"];
    const { code, stdout } = await nibble(
      ...["quantize", "compare", "--model", `${folder}/base.gguf`, ...flags, ...rest],
    );
    assertEquals(code, 0);
    const [f32, awq, smooth] = JSON.parse(stdout).results;
    assertEquals([f32.bitsPerWeight, f32.sqnr], [32, null]);
    assert(awq.bitsPerWeight < 5 && smooth.perplexity < 1.1 * f32.perplexity);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
