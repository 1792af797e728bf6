import { matchTargets, selectTargets, valueFor } from "../../../train/adapters/targets.ts";
import { assertEquals, assertThrows } from "../../assert.ts";

const PATHS = ["q_proj", "k_proj", "o_proj"].flatMap((name) =>
  [0, 1].map((i) => `model.layers.${i}.self_attn.${name}`)
).concat("model.layers.0.mlp.up_proj");

Deno.test("matchTargets() matches a path, or its end behind a dot", () => {
  assertEquals(matchTargets(PATHS, ["q_proj"]), PATHS.slice(0, 2));
  assertEquals(matchTargets(PATHS, [PATHS[1]]), [PATHS[1]]);
  assertEquals(matchTargets(PATHS, ["0.self_attn.q_proj", "up_proj"]), [PATHS[0], PATHS[6]]);
  assertEquals(matchTargets(PATHS, ["q_proj", "self_attn.q_proj"]), PATHS.slice(0, 2));
  assertThrows(() => matchTargets(PATHS, ["proj"]), RangeError, 'no linear layer "proj"');
});

Deno.test("matchTargets() takes all-linear, or an expression for the whole path", () => {
  assertEquals(matchTargets(PATHS, "all-linear"), PATHS);
  assertEquals(matchTargets(PATHS, String.raw`.*\.0\..*\.(q|k)_proj`), [PATHS[0], PATHS[2]]);
  assertEquals(matchTargets(PATHS, ".*q_proj|.*k_proj"), PATHS.slice(0, 4));
  assertThrows(() => matchTargets(PATHS, "q_proj"), RangeError, 'as a list: ["q_proj"]');
  assertThrows(() => matchTargets(PATHS, "x"), RangeError, "a regular expression for whole paths");
  assertThrows(() => matchTargets(PATHS, "all_linear"), RangeError, 'did you mean "all-linear"?');
  assertThrows(() => matchTargets(PATHS, "(?P<n>q)"), SyntaxError, "not a regular expression");
});

Deno.test("matchTargets() names the layers that there are, and the nearest", () => {
  assertThrows(
    () => matchTargets(PATHS, ["q_proj", "up_porj"]),
    RangeError,
    'Cannot choose layers: found no linear layer "up_porj", wanted q_proj, k_proj, o_proj, up_proj, or a path such as ' +
      'model.layers.0.self_attn.q_proj; did you mean "up_proj"?',
  );
  assertThrows(() => matchTargets(PATHS, ["all-linear"]), RangeError, "instead of a list");
  assertThrows(() => matchTargets(PATHS, []), RangeError, "found no target modules");
});

Deno.test("selectTargets() passes over names that mean no layer", () => {
  assertEquals(selectTargets(PATHS, ["query", "up_proj"]), [PATHS[6]]);
  assertEquals(selectTargets(PATHS, ["query"]), []);
});

Deno.test("excluded layers win over targets", () => {
  const limits = { excludeModules: ["k_proj", PATHS[1], "o_proj"] };
  assertEquals(matchTargets(PATHS, "all-linear", limits), [PATHS[0], PATHS[6]]);
  assertEquals(
    matchTargets(PATHS, ["q_proj"], { excludeModules: String.raw`model\.layers\.0\..*` }),
    [PATHS[1]],
  );
  assertThrows(
    () => matchTargets(PATHS, "all-linear", { excludeModules: ["x_proj"] }),
    RangeError,
    'found none that "x_proj" in excludeModules means, wanted q_proj, k_proj, o_proj, up_proj',
  );
  assertThrows(
    () => matchTargets(PATHS, ["q_proj"], { excludeModules: ["q_proj"] }),
    RangeError,
    'leave none of those that ["q_proj"] means',
  );
  assertEquals(selectTargets(PATHS, ["q_proj"], { excludeModules: ["x"] }), PATHS.slice(0, 2));
});

Deno.test("layersToTransform chooses blocks, but not for a layer that is named in full", () => {
  const limits = { layersToTransform: [1] };
  assertEquals(matchTargets(PATHS, ["q_proj", "o_proj"], limits), [PATHS[1], PATHS[5]]);
  assertEquals(matchTargets(PATHS, "all-linear", limits), [PATHS[1], PATHS[3], PATHS[5]]);
  assertEquals(matchTargets(PATHS, [PATHS[0], "k_proj"], limits), [PATHS[0], PATHS[3]]);
  assertThrows(
    () => matchTargets(PATHS, ["q_proj"], { layersToTransform: [2] }),
    RangeError,
    "leave none",
  );
  const gpt2 = ["transformer.h.0.attn.c_attn", "transformer.h.1.attn.c_attn", "h.1.c_attn"];
  assertEquals(matchTargets(gpt2, ["c_attn"], { layersToTransform: [1] }), [gpt2[1]]);
  const named = (pattern: string) =>
    selectTargets(gpt2, ["c_attn"], { layersToTransform: [1], layersPattern: [pattern] });
  assertEquals(named("h"), [gpt2[1], gpt2[2]]);
  assertEquals(named("layers"), []);
  // The first number is the block's, not the expert's.
  const experts = ["model.layers.1.experts.0.w", "model.layers.0.experts.1.w"];
  assertEquals(matchTargets(experts, ["w"], { layersToTransform: [1] }), [experts[0]]);
});

Deno.test("nothing inside of a module that is trained whole is a target", () => {
  const limits = { modulesToSave: ["mlp", "k_proj"] };
  assertEquals(matchTargets(PATHS, "all-linear", limits), [
    ...PATHS.slice(0, 2),
    PATHS[4],
    PATHS[5],
  ]);
});

Deno.test("valueFor() takes the first pattern that fits the end of the path", () => {
  assertEquals(valueFor(PATHS[0], { "q_proj": 3, ".*": 4 }, 8), 3);
  assertEquals(valueFor(PATHS[2], { "q_proj": 3 }, 8), 8);
  assertEquals(valueFor(PATHS[2], { "proj": 3 }, 8), 8);
  assertEquals(valueFor(PATHS[2], { "layers.0.*": 5 }, 8), 5);
});
