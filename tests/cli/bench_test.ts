import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

Deno.test("nibble bench prints a row for each result, and writes them all with --json FILE", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/bench.json`;
    const flags = ["--filter", "add", "--sizes", "tiny", "--repeats", "1", "--json", file];
    const { code, stdout, stderr } = await nibble("bench", ...flags);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^kernel +shape +ms +GFLOP\/s +GB\/s +error$/m);
    const { adapter, results } = JSON.parse(await Deno.readTextFile(file));
    assert(stdout.startsWith(adapter.name));
    assert(results.length > 0);
    for (const { kernel, milliseconds } of results) {
      assert(kernel.includes("add") && milliseconds > 0);
      assert(stdout.includes(`\n${kernel} `));
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble bench --end-to-end prints a row for each work, and its kernels with --profile", async () => {
  const flags = ["--end-to-end", "--filter", "gpt-d64", "--profile", "--sizes", "tiny"];
  const { code, stdout, stderr } = await nibble("bench", ...flags);
  assertEquals([code, stderr], [0, ""]);
  assertMatch(stdout, /^work +shape +ms +min +max +tokens\/s +dispatches +cold ms/m);
  assertMatch(stdout, /^full gpt-d64 2x32 +batch=2 length=32 tiny +[\d.]+ /m);
  assertMatch(stdout, /^kernel +dispatches +ms +share$/m);
  assertMatch(stdout, /^matmul\S* +\d+ +[\d.]+ +[\d.]+ %$/m);
});

Deno.test("nibble bench refuses an unknown kernel before the GPU starts", async () => {
  const { code, stdout, stderr } = await nibble("bench", "--filter", "zebra");
  assertEquals([code, stdout], [2, ""]);
  assertMatch(
    stderr,
    /^error: Cannot read option --filter: found "zebra", wanted a part of matmul/,
  );
});
