import {
  parseScheme,
  type QuantizationPolicy,
  quantizeByPolicy,
  readPolicy,
  savePolicy,
  schemesOf,
  showScheme,
} from "../../../train/quant/policy.ts";
import { randomModel } from "../../../train/models/load.ts";
import { QuantizedLinear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../../assert.ts";
import { device } from "../../device.ts";

const tiny = (kind: "llama" | "gpt2" = "llama") =>
  randomModel(
    device,
    kind === "llama"
      ? {
        model_type: "llama",
        vocab_size: 64,
        hidden_size: 64,
        intermediate_size: 128,
        num_hidden_layers: 2,
        num_attention_heads: 2,
        tie_word_embeddings: false,
      }
      : { model_type: "gpt2", vocab_size: 64, n_embd: 64, n_layer: 2, n_head: 2 },
  );

const count = (schemes: Map<string, unknown>, kind: string | null) =>
  [...schemes.values()].filter((own) =>
    (own as { kind?: string } | null)?.kind === (kind ?? undefined)
  )
    .length;

Deno.test("schemes are read and shown by name", () => {
  assertEquals(parseScheme("f32"), null);
  assertEquals(parseScheme("int4-g32"), { kind: "int4", groupSize: 32 });
  assertEquals(parseScheme("nf4-dq-g128"), { kind: "nf4", doubleQuant: true, blockSize: 128 });
  for (
    const name of [
      "f32",
      "int8",
      "int8-g64",
      "int3",
      "int2-g32",
      "hqq",
      "hqq3-g32",
      "nf4-dq",
      "fp4-g256",
    ]
  ) {
    assertEquals(showScheme(parseScheme(name)), name);
  }
  const asymmetric = { kind: "int8", range: "asymmetric", per: "tensor" } as const;
  assertEquals(parseScheme("int8-asym-tensor"), asymmetric);
  assertEquals(parseScheme("int4-sym-g32"), { kind: "int4", range: "symmetric", groupSize: 32 });
  for (const name of ["int8-full", "int4-channel", "int2-sym-tensor", "int3-asym-g16"]) {
    assertEquals(showScheme(parseScheme(name)), name);
  }
  for (
    const name of [
      "int8-tensor-g32",
      "nf4-sym",
      "int8-asym-dq",
      "int4-channel-sym",
      "int5",
      "hqq8",
      "int4-dq",
      "int8-g0",
      "int8-g",
      "F32",
      "",
    ]
  ) {
    assertThrows(() => parseScheme(name), RangeError, "wanted f32, int8");
  }
});

Deno.test("a policy names layers by their end, with stars, and by regular expressions", () => {
  const model = tiny();
  const of = (policy: QuantizationPolicy) => schemesOf(model, policy);
  const ends = of({ rules: [{ layers: ["q_proj", "self_attn.v_proj"], scheme: "int8" }] });
  assertEquals([count(ends, "int8"), count(ends, null)], [4, 10]);
  const star = of({ rules: [{ layers: "*.layers.1.*", scheme: "nf4" }], otherwise: "int4" });
  assertEquals([count(star, "nf4"), count(star, "int4")], [7, 7]);
  const regular = of({ rules: [{ layers: "/layers\\.0\\..*(up|down)_proj$/", scheme: "hqq" }] });
  assertEquals(count(regular, "hqq"), 2);
  // Embeddings, norms and the output layer may be named, to say that they stay.
  const kept = ["lm_head", "embed_tokens", "*norm*"];
  const all = of({ rules: [{ layers: kept, scheme: "f32" }], otherwise: "int8" });
  assertEquals(count(all, "int8"), 14);
});

for (const kind of ["llama", "gpt2"] as const) {
  Deno.test(`a policy quantizes the layers of ${kind}, and its result can be taken back`, async () => {
    const model = tiny(kind);
    const before = [...model.linearLayers()];
    const name = kind === "llama" ? "down_proj" : "mlp.c_proj";
    const rules = [{ layers: name, scheme: "f32" }];
    const replaced = await quantizeByPolicy(model, { rules, otherwise: "int4-g32" });
    for (const [path, layer] of model.linearLayers()) {
      assertEquals(layer instanceof QuantizedLinear, !path.endsWith(name), path);
      if (!(layer instanceof QuantizedLinear)) continue;
      const [rows, columns] = layer.shape;
      assertEquals(layer.weightBytes, rows * columns / 2 + rows * columns / 32 * 4.5);
    }
    replaced.restore();
    for (const [i, [, layer]] of [...model.linearLayers()].entries()) {
      assert(layer === before[i][1]);
    }
  });
}

Deno.test("a policy that names no layer, or one twice, is refused", async () => {
  const model = tiny();
  const fails = (rules: QuantizationPolicy["rules"], text: string) =>
    assertThrows(() => schemesOf(model, { rules, otherwise: "int4" }), RangeError, text);
  fails([{ layers: "w_proj", scheme: "int8" }], 'rule 1 of the policy: "w_proj" names no layer');
  fails([{ layers: ["q_proj", "proj"], scheme: "int8" }], '"proj" names no layer');
  fails(
    [{ layers: "model.layers.0", scheme: "int8" }],
    'and "*.layers.0.*" and "/layers\\.[0-3]\\./"',
  );
  fails(
    [{ layers: "q_proj", scheme: "int8" }, { layers: "*self_attn*", scheme: "int8" }],
    'rule 1 and rule 2 both name "model.layers.0.self_attn.q_proj"',
  );
  fails([{ layers: "lm_head", scheme: "int8" }], '"lm_head", which is not a linear layer');
  fails([{ layers: "q_proj", scheme: "int5" }], "wanted f32, int8");
  assertThrows(
    () => schemesOf(model, { rules: [{ layers: "/(/", scheme: "int8" }] }),
    SyntaxError,
    "Cannot read the pattern",
  );
  await assertRejects(
    () => quantizeByPolicy(model, { rules: [{ layers: "q_proj", scheme: "nf4-g7" }] }),
    RangeError,
    'Cannot quantize "model.layers.0.self_attn.q_proj"',
  );
});

Deno.test("a policy is saved and read", async () => {
  const folder = await Deno.makeTempDir();
  try {
    const path = `${folder}/policy.json`;
    const rules = [
      { layers: "q_proj", scheme: { kind: "int4", groupSize: 32 } as const },
      { layers: ["k_proj", "*.mlp.*"], scheme: "nf4-dq" },
    ];
    await savePolicy(path, { rules });
    const read = await readPolicy(path);
    assertEquals(read.rules.map(({ scheme }) => scheme), ["int4-g32", "nf4-dq"]);
    assertEquals(read.otherwise, "f32");
    const model = tiny();
    assertEquals(schemesOf(model, read), schemesOf(model, { rules }));
    const bad: [string, new () => Error, string][] = [
      ["{}", SyntaxError, "no list of rules"],
      ['{"rules": [{"scheme": "int8"}]}', SyntaxError, "rule 1 names no layers"],
      ['{"rules": [{"layers": "q_proj"}]}', SyntaxError, "rule 1 has no scheme"],
      ['{"rules": [{"layers": "q_proj", "scheme": "int7"}]}', RangeError, '"int7"'],
      ['{"rules": [], "otherwise": 4}', SyntaxError, '"otherwise"'],
      ['{"rules": [], "othrwise": "int4"}', SyntaxError, 'did you mean "otherwise"?'],
      [
        '{"rules": [{"layers": "q_proj", "sheme": "int8"}]}',
        SyntaxError,
        'in rule 1 it has "sheme"',
      ],
    ];
    for (const [text, type, message] of bad) {
      await Deno.writeTextFile(path, text);
      await assertRejects(() => readPolicy(path), type, message);
    }
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
