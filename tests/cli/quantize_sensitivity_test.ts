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
  const { code, stdout } = await run(
    "--schemes",
    "int8,nf4",
    "--budget",
    "160kB",
    "--group",
    "block",
  )
    .then(async (small) => small.code === 0 ? small : await run("--schemes", "int8,nf4"));
  assertEquals(code, 0);
  for (
    const line of [
      /KL int8 +KL nf4 +chosen/,
      /KL with one quantized to nf4/,
      /[┤┼].*[╭╮╰╯─]/,
      /^Chosen: /m,
    ]
  ) assert(line.test(stdout), `${line} in\n${stdout}`);
});

Deno.test("nibble quantize sensitivity says what is wrong", async () => {
  const cases: [number, RegExp, ...string[]][] = [
    [2, /--budget: wanted bits a weight/, "--budget", "few"],
    [2, /--schemes: wanted names/, "--schemes", "int8,int3"],
    [1, /Cannot check the choice on 0 tokens/, "--check", "rest", "--limit", "1000000"],
    [1, /the smallest of the schemes take/, "--schemes", "int8", "--budget", "4"],
  ];
  for (const [wanted, message, ...args] of cases) {
    const { code, stdout, stderr } = await run(...args, "--json");
    assertEquals([code, stdout], [wanted, ""], stderr);
    assertMatch(stderr, message);
  }
});
