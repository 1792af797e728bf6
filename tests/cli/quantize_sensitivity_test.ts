import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

const ASSETS = new URL("../../assets/", import.meta.url).pathname;
const FLAGS = ["--model", `${ASSETS}base`, "--text", `${ASSETS}wordnet/heldout.txt`]
  .concat("--limit", "512", "--window", "128", "--places", "64", "--group", "type");
const run = (...args: string[]) => nibble("quantize", "sensitivity", ...FLAGS, ...args);

Deno.test("nibble quantize sensitivity chooses bits within a budget, and compare reads its choice", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const out = `${folder}/policy.json`;
    const more = ["--schemes", "int8,int4", "--budget", "5.5bits", "--out", out, "--json"];
    const { code, stdout, stderr } = await run(...more, "--check", "rest");
    assertEquals(code, 0, stderr);
    const { sensitivity, chosen, checked } = JSON.parse(stdout);
    assertEquals(sensitivity.units.length, 7);
    assert(chosen.bitsPerWeight <= 5.5 && chosen.bitsPerWeight > 5, chosen.bitsPerWeight);
    assertEquals(JSON.parse(await Deno.readTextFile(out)).rules, chosen.policy.rules);
    const [mixed, int8, int4] = checked;
    assertEquals([mixed.scheme, int8.scheme, int4.scheme], ["chosen", "int8", "int4"]);
    assert(int8.divergence < mixed.divergence && mixed.divergence < int4.divergence);
    const compared = await nibble(
      ...[
        "quantize",
        "compare",
        ...FLAGS.slice(0, 8),
        "--schemes",
        "f32",
        "--policy",
        out,
        "--json",
      ],
    );
    assertEquals([compared.code, compared.stderr], [0, ""]);
    const [, policy] = JSON.parse(compared.stdout).results;
    assert(Math.abs(policy.bitsPerWeight - chosen.bitsPerWeight) < 1e-9);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble quantize sensitivity prints a table, a curve and the choice", async () => {
  const { code, stdout } = await run("--schemes", "int8,nf4", "--others");
  assertEquals(code, 0);
  for (
    const line of [
      /KL int8 +KL nf4 +chosen/,
      /KL with one quantized to nf4/,
      /^model\.embed_tokens +328 k .* as it is$/m,
      /[┤┼].*[╭╮╰╯─]/,
      /^Chosen: /m,
    ]
  ) assert(line.test(stdout), `${line} in\n${stdout}`);
});

Deno.test("nibble quantize sensitivity shows the measure that it chose by", async () => {
  const flags = ["--schemes", "int8,int4", "--measure", "loss"];
  const [{ stdout }, told] = await Promise.all([run(...flags), run(...flags, "--json")]);
  const { sensitivity: { units }, chosen } = JSON.parse(told.stdout);
  assertMatch(stdout, /^layers +weights +loss change int8 +loss change int4 +chosen$/m);
  assertMatch(stdout, /^loss change with one quantized to int4/m);
  // What the row of a kind shows is what was added up.
  const cost = units.reduce((sum: number, { name, schemes }: typeof units[0]) => {
    const [, , int8, int4, scheme] = stdout.match(
      new RegExp(`^(${name}) +\\S+ k +(\\S+) +(\\S+) +(\\S+)$`, "m"),
    )!;
    const shown = Number(scheme === "int8" ? int8 : int4);
    const own = schemes.find((one: { scheme: string }) => one.scheme === scheme).lossChange;
    assert(Math.abs(shown - own) < 0.01 * Math.abs(own), `${name}: ${shown} of ${own}`);
    return sum + own;
  }, 0);
  assert(Math.abs(cost - chosen.cost) < 1e-9, `${cost}, ${chosen.cost}`);
  assert(!/KL/.test(stdout), stdout);
});

Deno.test("nibble quantize sensitivity says what is wrong", async () => {
  const cases: [number, RegExp, ...string[]][] = [
    [2, /--budget: wanted bits a weight/, "--budget", "few"],
    [2, /--schemes: found "int9", wanted names/, "--schemes", "int8,int9"],
    [1, /Cannot check the choice on 0 tokens/, "--check", "rest", "--limit", "1000000"],
    [1, /Cannot write to ".*": found a folder of that name, wanted a file/, "--out", ASSETS],
    [1, /the smallest of the schemes take/, "--schemes", "int8", "--budget", "4"],
  ];
  for (const [wanted, message, ...args] of cases) {
    const { code, stdout, stderr } = await run(...args, "--json");
    assertEquals([code, stdout], [wanted, ""], stderr);
    // Before any layer is quantized.
    assert(!/Quantizing/.test(stderr), stderr);
    assertMatch(stderr, message);
  }
});

Deno.test("what nibble quantize sensitivity chooses by default can be written, and so can a mix of formats", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const [out, mixed] = [`${folder}/policy.json`, `${folder}/mixed.json`];
    assertEquals((await run("--out", out, "--json")).code, 0);
    const model = ["--model", `${ASSETS}base`];
    const write = (policy: string, to: string) =>
      nibble("quantize", ...model, "--policy", policy, "--out", to, "--json");
    const { code, stdout, stderr } = await write(out, `${folder}/model`);
    assertEquals(code, 0, stderr);
    const { after } = JSON.parse(stdout);
    assert(after.bitsPerWeight <= 5 && after.bitsPerWeight > 4.5, after.bitsPerWeight);
    const text = ["--text", `${ASSETS}wordnet/heldout.txt`, "--limit", "512", "--json"];
    const evaluated = await nibble("eval", "--model", `${folder}/model`, ...text);
    assertEquals(evaluated.code, 0, evaluated.stderr);
    assert(JSON.parse(evaluated.stdout).perplexity < 60);

    const both = ["--schemes", "int8,nf4", "--budget", "6"];
    const chosen = await run(...both, "--out", mixed);
    assertEquals(chosen.code, 0);
    const written = await write(mixed, `${folder}/mixed`);
    assertEquals(written.code, 0, written.stderr);
    const again = await nibble("eval", "--model", `${folder}/mixed`, ...text);
    assertEquals(again.code, 0, again.stderr);
    assert(JSON.parse(again.stdout).perplexity < 60);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
