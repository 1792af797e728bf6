import { assert, assertEquals, assertMatch } from "../assert.ts";
import { nibble } from "./spawn.ts";

const MODEL = new URL("../../assets/base", import.meta.url).pathname;
const explain = (...args: string[]) => nibble("quantize", "--explain", ...args);

Deno.test("nibble quantize --explain shows every number on the way", async () => {
  const { code, stdout, stderr } = await explain("--values", "-0.5,1.2,-0.8,2.0,0.3");
  assertEquals([code, stderr], [0, ""]);
  for (
    const line of [
      /scale = absmax \/ 127 = 2 \/ 127 = 0\.015748; zero = 0/,
      /\[0,1\] +1\.2 +76\.\d+ +76 +76 +1\.19685 +-0\.00315/,
      /\[0,3\] +2 +127\.49999 +127 +127 +1\.99216 +-0\.00784/,
      /zero = 0 − round\(min \/ scale\) = 0 − \(−73\) = 73/,
      /^ *2 +182 +no +-74 /m,
      /1 of 5 do not fit into −128 to 127/,
    ]
  ) assert(line.test(stdout), `${line} in\n${stdout}`);
});

Deno.test("nibble quantize --explain takes a part of a model's tensor", async () => {
  const tensor = "model.layers.0.self_attn.q_proj.weight";
  const flags = ["--model", MODEL, "--tensor", tensor, "--part", "2:4,8:16"];
  const more = ["--schemes", "int4-asymmetric,nf4", "--granularity", "group", "--group-size", "4"];
  const { code, stdout, stderr } = await explain(...flags, ...more, "--json");
  assertEquals([code, stderr], [0, ""]);
  const { shape, values, results } = JSON.parse(stdout);
  assertEquals([shape, values.length, results.length], [[2, 8], 16, 2]);
  assertEquals(results[0].groups.length, 4);
  assertEquals(results[0].groups[1].where, "row 0, columns 4 to 7");
  assert(results[1].largestError > 0);
});

Deno.test("nibble quantize --explain says what is wrong", async () => {
  const cases: [number, RegExp, ...string[]][] = [
    [1, /found "x", wanted numbers/, "--values", "1,x"],
    [1, /row 1 has 1 numbers, wanted 2/, "--values", "1,2;3"],
    [2, /wanted either --values or --tensor/],
    [2, /--model and --tensor together/, "--tensor", "w"],
    [2, /wanted --granularity group/, "--values", "1,2", "--group-size", "2"],
    [2, /--quantize: it says how a model is/, "--values", "1,2", "--quantize", "int8"],
    [2, /--range: it says.*--schemes/, "--values", "1,2", "--range", "asymmetric"],
    [2, /--out: it says.*leave it out/, "--values", "1,2", "--out", "x"],
    [1, /Cannot read "nothing"/, "--model", MODEL, "--tensor", "nothing"],
    [
      1,
      /part 0:9999,0:2/,
      "--model",
      MODEL,
      "--tensor",
      "model.norm.weight",
      "--part",
      "0:9999,0:2",
    ],
  ];
  for (const [wanted, message, ...args] of cases) {
    const { code, stdout, stderr } = await explain(...args);
    assertEquals([code, stdout], [wanted, ""], stderr);
    assertMatch(stderr, message);
  }
  // A tensor that is quantized already, in both formats; and one by the name that a GGUF file has for it.
  const folder = await Deno.makeTempDir();
  try {
    const file = `${folder}/base.gguf`;
    const exported = await nibble("export", "--model", MODEL, "--out", file);
    assertEquals(exported.code, 0, exported.stderr);
    const own = await explain("--model", file, "--tensor", "blk.0.attn_q.weight");
    assertEquals(own.code, 1);
    assertMatch(own.stderr, /such as "model\..*; those of a GGUF file go by Hugging Face's names/);
    for (const [type, found] of [["nf4", "in 4 bits"], ["int8", "in integers"]]) {
      const out = `${folder}/${type}`;
      const made = await nibble("quantize", "--model", MODEL, "--out", out, "--quantize", type);
      assertEquals(made.code, 0, made.stderr);
      const name = "model.layers.0.mlp.up_proj.weight";
      const twice = await explain("--model", out, "--tensor", name);
      assertEquals(twice.code, 1);
      assert(
        twice.stderr.includes(`"${name}" is ${found} already, wanted plain weights; take the`),
      );
      // What is plain in it can be explained.
      const rest = await explain("--model", out, "--tensor", "model.embed_tokens.weight");
      assertEquals(rest.code, 0, rest.stderr);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
  const { code, stderr } = await nibble("quantize", "--values", "1,2");
  assertEquals(code, 2);
  assertMatch(stderr, /--model is missing[^]*--explain with it/);
});
