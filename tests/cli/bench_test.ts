import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

Deno.test("nibble bench prints a row for each result, and writes them all with --json FILE", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/bench.json`;
    const flags = ["--filter", "add", "--sizes", "tiny", "--repeats", "1", "--json", file];
    const { code, stdout, stderr } = await nibble("bench", ...flags);
    assertEquals([code, stderr], [0, ""]);
    assertMatch(stdout, /^kernel +shape +ms +GFLOP\/s +GB\/s +min +max +error +MHz$/m);
    const { adapter, versions, results } = JSON.parse(await Deno.readTextFile(file));
    assertEquals(versions.deno, Deno.version.deno);
    assert(stdout.startsWith(adapter.name));
    assert(results.length > 0);
    for (const { name, ms, minMs, maxMs } of results) {
      assert(name.includes("add") && minMs <= ms && ms <= maxMs);
      assert(stdout.includes(`\n${name} `));
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
  assertMatch(stdout, /^kernel +calls +ms +share +GFLOP\/s +GB\/s$/m);
  assertMatch(stdout, /^matmul\S* +\d+ +[\d.]+ +[\d.]+ %/m);
});

Deno.test("nibble bench --json prints nothing but JSON, and --compare reads it again", async () => {
  const flags = ["--kernel", "grad", "--sizes", "tiny", "--repeats", "2"];
  const folder = await Deno.makeTempDir();
  try {
    const { code, stdout, stderr } = await nibble("bench", ...flags, "--filter", "grad", "--json");
    assertEquals([code, stderr], [0, ""]);
    const { adapter, versions, results } = JSON.parse(stdout);
    assert(adapter.name.length > 0 && versions.nibble.length > 0);
    assertEquals(results.map(({ name }: { name: string }) => name), ["grad norm"]);
    const [row] = results;
    assert(row.ms > 0 && row.gbps > 0 && row.shape.startsWith("size="));
    const files = [`${folder}/old.json`, `${folder}/new.json`];
    await Deno.writeTextFile(files[0], stdout);
    const slower = [{ ...row, ms: 2 * row.ms }, { ...row, name: "other" }];
    await Deno.writeTextFile(files[1], JSON.stringify({ adapter, results: slower }));
    const compared = await nibble("bench", "--compare", ...files);
    assertEquals([compared.code, compared.stderr], [0, ""]);
    assertMatch(compared.stdout, /^grad norm +size=\d+ +\S+ +\S+ +0\.50 +SLOWER$/m);
    assertMatch(compared.stdout, /^Only in the second: other size=\d+$/m);
    assertMatch(compared.stdout, /^1 rows, 1 of them wrong or slower by more than 10\.0 %$/m);
    const targets = await nibble("bench", "--targets", files[0]);
    assertEquals([targets.code, targets.stderr], [0, ""]);
    assertMatch(targets.stdout, /^\| Work \| Peer \| Wanted \| Measured \| Command \|$/m);
    assertMatch(targets.stdout, /^\| matmul of 4096³ .* \| 41\.0 TFLOP\/s \| {2}\| `bench/m);
    const calm = await nibble("bench", "--compare", ...files, "--threshold", "1.5", "--json");
    assertEquals(JSON.parse(calm.stdout).rows[0].isWorse, false);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});

Deno.test("nibble bench says what is wrong with a file of results, and with its arguments", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/report.json`;
    const refusal = async (text: string) => {
      await Deno.writeTextFile(file, text);
      const { code, stderr } = await nibble("bench", "--compare", file, file);
      assertEquals(code, 1);
      return stderr;
    };
    assertMatch(await refusal("{"), /Cannot read the results in ".*": /);
    assertMatch(await refusal("null"), /it has no adapter with a name/);
    assertMatch(await refusal('{"adapter": {"name": "x"}}'), /it has no list of results/);
    const row = '{"name": "x", "shape": "", "ms": 0}';
    const report = `{"adapter": {"name": "x"}, "results": [${row}]}`;
    assertMatch(await refusal(report), /result 1 has no name, shape and ms/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  for (
    const [args, fault] of [
      [["--compare", "a.json"], /argument FILE: found 1 files, wanted two/],
      [["a.json"], /argument FILE: wanted --compare or --targets with it/],
      [["--targets"], /argument FILE: found 0 files, wanted at least one/],
      [["--kernel", "zebra"], /option --kernel: found "zebra", wanted the beginning of matmul/],
      [["--profile"], /option --profile: wanted --end-to-end with it/],
      [["--end-to-end", "--filter", "matmul"], /found "matmul", wanted a part of qlora smollm2/],
    ] as const
  ) {
    const { code, stderr } = await nibble("bench", ...args);
    assertEquals(code, 2);
    assertMatch(stderr, fault);
  }
});

Deno.test("nibble bench refuses an unknown kernel before the GPU starts", async () => {
  const { code, stdout, stderr } = await nibble("bench", "--filter", "zebra");
  assertEquals([code, stdout], [2, ""]);
  assertMatch(
    stderr,
    /^error: Cannot read option --filter: found "zebra", wanted a part of matmul/,
  );
});
