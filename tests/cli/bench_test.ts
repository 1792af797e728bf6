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
    const report = JSON.parse(stdout);
    const { adapter, versions, results } = report;
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
    assertMatch(compared.stdout, /^1 row, 1 of them wrong or slower by more than 10\.0 %$/m);
    const targets = await nibble("bench", "--targets", files[0]);
    assertEquals([targets.code, targets.stderr], [0, ""]);
    assertMatch(targets.stdout, /^\| Work \| Peer \| Wanted \| Measured \| Command \|$/m);
    assertMatch(targets.stdout, /^\| matmul of 4096³ .* \| 41\.0 TFLOP\/s \| {2}\| `bench/m);
    // What a software adapter runs under a row's name is not that row.
    const tiny = { name: "full gpt-d64 2x32", shape: "batch=2 length=32 tiny", ms: 1 };
    await Deno.writeTextFile(files[1], JSON.stringify({ ...report, results: [tiny] }));
    const none = await nibble("bench", "--targets", files[1]);
    assertMatch(none.stdout, /^\| GPT training step, d 64.* \| 3\.00 ms \| {2}\| `bench/m);
    assert(none.stdout.startsWith(`${files[1]}: ${adapter.name}, nibble `), none.stdout);
    const over = await nibble("bench", "--targets", "--json", ...files);
    assertEquals(over.code, 1);
    assertMatch(over.stderr, /^error: Cannot write to ".*old\.json": it holds results of nibble/);
    assertEquals(await Deno.readTextFile(files[0]), stdout);
    const apart = await nibble("bench", "--compare", ...files);
    assertEquals(apart.code, 1);
    assertMatch(
      apart.stderr,
      /^error: Cannot compare .*: no row of one has the name and the shape/,
    );
    const other = { ...report, adapter: { name: "another card" } };
    await Deno.writeTextFile(files[1], JSON.stringify(other));
    const foreign = await nibble("bench", "--compare", ...files);
    assertEquals(foreign.code, 0);
    assertMatch(foreign.stdout, /^The adapters differ: a ratio is that of two machines/m);
    await Deno.writeTextFile(files[1], JSON.stringify({ ...report, results: slower }));
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
  const missing = await nibble("bench", "--targets", "nowhere/today.json");
  assertEquals(missing.code, 1);
  assertEquals(
    missing.stderr,
    'error: Cannot read the results in "nowhere/today.json": there is no such file; check the path\n',
  );
  for (
    const [args, fault] of [
      [
        ["--compare", "a.json", "b.json", "--kernel", "matmul"],
        /--kernel: found it with --compare/,
      ],
      [["--end-to-end", "--kernel", "matmul"], /--kernel: found it with --end-to-end/],
      [["--end-to-end", "--size", "64"], /--size: found it with --end-to-end/],
      [["--size", "64", "--sizes", "tiny"], /--size: found it with --sizes/],
      [["--threshold", "0.2"], /--threshold: wanted --compare with it/],
      [["--kernel", "matmul", "--filter", "softmax"], /"softmax", wanted a part of matmul nn, /],
      [["--compare", "a.json"], /argument FILE: found 1 files, wanted two/],
      [["a.json"], /argument FILE: wanted --compare or --targets with it/],
      [["--targets"], /argument FILE: found 0 files, wanted at least one/],
      [
        ["--kernel", "zebra"],
        /option --kernel: found "zebra", wanted the beginning of a kernel's name: matmul, gemv/,
      ],
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

Deno.test("nibble bench measures what fits, and says what does not", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/bench.json`;
    const flags = ["--kernel", "dequantize,copy", "--size", "100", "--repeats", "1"];
    const { code, stdout, stderr } = await nibble("bench", ...flags, "--json", file);
    assertEquals([code, stderr], [0, ""]);
    const misfit = "dequantize nf4 rows=100 columns=100";
    assert(
      stdout.includes(`\n${misfit}: not measured, columns must be a multiple of 64\n`),
      stdout,
    );
    const { results, skipped } = JSON.parse(await Deno.readTextFile(file));
    assertEquals(results.map(({ name }: { name: string }) => name), ["copy"]);
    assertEquals(skipped[0], { name: misfit, reason: "columns must be a multiple of 64" });
    // More bytes than any buffer has: the other row is measured and written all the same.
    const large = ["--kernel", "softmax forward,grad norm", "--size", "60000", "--repeats", "1"];
    const half = await nibble("bench", ...large, "--json");
    assertEquals(half.code, 1);
    assertMatch(half.stderr, /^error: Cannot measure 1 of 2 rows: Cannot allocate \d+ bytes/);
    const report = JSON.parse(half.stdout);
    assertEquals(report.results.map(({ name }: { name: string }) => name), ["grad norm"]);
    assertEquals(report.skipped[0].name, "softmax forward rows=60000 columns=60000");
    const blocked = await nibble("bench", "--kernel", "copy", "--json", folder);
    assertEquals([blocked.code, blocked.stdout], [1, ""]);
    assertMatch(blocked.stderr, /^error: Cannot write to ".*": found a folder of that name/);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
