// deno-lint-ignore-file camelcase -- the names are those of config.json
import { ConfigFields } from "../../../train/files/config.ts";
import { readRope } from "../../../train/files/rope_config.ts";
import type { Json } from "../../../train/files/tokenizer.ts";
import { parseConfig } from "../../../train/models/architectures.ts";
import { ropeTable } from "../../../train/models/rope_table.ts";
import { assert, assertAllClose, assertEquals, assertThrows } from "../../assert.ts";

/** What transformers computes for a config.json; see tests/golden/make_rope.py. */
interface RopeCase {
  readonly name: string;
  readonly config: Json;
  readonly length: number;
  readonly positions: readonly number[];
  readonly cos: readonly (readonly number[])[];
  readonly sin: readonly (readonly number[])[];
  readonly frequencies: readonly number[];
  readonly scale: number;
}

const CASES: readonly RopeCase[] = JSON.parse(
  await Deno.readTextFile(new URL("../../golden/rope/rope.json", import.meta.url)),
);

function tableOf({ config, length }: RopeCase): Float32Array {
  const fields = new ConfigFields(config, "config.json");
  return ropeTable({ headSize: 64, length, ...readRope(fields, 512) });
}

for (const golden of CASES) {
  Deno.test(`ropeTable() is transformers' with ${golden.name} scaling`, () => {
    const table = tableOf(golden);
    for (const [row, position] of golden.positions.entries()) {
      const own = table.subarray(position * 64, (position + 1) * 64);
      // Cosines differ in their last bit, a few frequencies too: the powers behind them come from other libraries.
      const bounds = { relative: 0, absolute: 1.2e-7 + position * 2e-8 };
      assertAllClose(own.subarray(0, 32), golden.cos[row], bounds, `cosines at ${position}`);
      assertAllClose(own.subarray(32), golden.sin[row], bounds, `sines at ${position}`);
    }
  });
}

Deno.test("ropeTable() with dynamic scaling is the plain table within the trained context", () => {
  const plain = { headSize: 64, theta: 10_000, length: 512 };
  const scaling = { kind: "dynamic", factor: 4, originalLength: 512 } as const;
  assertEquals(ropeTable({ ...plain, scaling }), ropeTable(plain));
  const far = { ...plain, length: 600 };
  assert(ropeTable({ ...far, scaling }).some((value, i) => value !== ropeTable(far)[i]));
});

const LLAMA: Json = {
  model_type: "llama",
  vocab_size: 64,
  hidden_size: 64,
  intermediate_size: 64,
  num_hidden_layers: 1,
  num_attention_heads: 4,
};

Deno.test("a rope_type that nibble does not have is refused by name", () => {
  for (
    const rope of [{ rope_scaling: { type: "longrope" } }, {
      rope_parameters: { rope_type: "longrope", short_factor: [1, 1], long_factor: [2, 4] },
    }]
  ) {
    assertThrows(
      () => parseConfig({ ...LLAMA, ...rope }),
      TypeError,
      'type" is "longrope", wanted "default", "linear", "dynamic", "llama3" or "yarn"',
    );
  }
  assertThrows(
    () => parseConfig({ ...LLAMA, rope_scaling: { type: "linear" } }),
    TypeError,
    '"rope_scaling.factor" is nothing, wanted a number above 0',
  );
  assertThrows(
    () => parseConfig({ ...LLAMA, partial_rotary_factor: 0.5 }),
    TypeError,
    '"partial_rotary_factor" is 0.5, wanted 1',
  );
  const perLayer = { full_attention: { rope_type: "default" }, sliding_attention: null };
  assertThrows(
    () => parseConfig({ ...LLAMA, rope_parameters: perLayer }),
    TypeError,
    '"rope_parameters.full_attention" is {"rope_type":"default"}, wanted a number',
  );
});

Deno.test("readRope() prefers rope_scaling to rope_parameters, and a theta within to one beside", () => {
  const read = (json: Json) => readRope(new ConfigFields(json, "config.json"), 512);
  assertEquals(read({}), { theta: 10_000, scaling: null });
  assertEquals(read({ rope_theta: 5, rope_parameters: null, rope_scaling: null }).theta, 5);
  assertEquals(read({ rope_theta: 5, rope_parameters: { rope_theta: 7 } }).theta, 7);
  const both = {
    rope_scaling: { type: "linear", factor: 2 },
    rope_parameters: { rope_type: "linear", factor: 3 },
  };
  assertEquals(read(both).scaling, { kind: "linear", factor: 2 });
});
