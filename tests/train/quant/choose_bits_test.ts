import { type ChoiceUnit, chooseSchemes } from "../../../train/quant/choose_bits.ts";
import { Random } from "../../../core/random.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";

/** Units with random sizes and costs; more bytes mostly cost less, but not always. */
function randomUnits(seed: number, count: number, most: number): ChoiceUnit[] {
  const random = new Random(seed);
  return Array.from({ length: count }, (_, u) => {
    const weights = 10 + random.integer(40);
    const choices = Array.from({ length: 1 + random.integer(most) }, (_, i) => ({
      scheme: `s${i}`,
      bytes: weights * (1 + random.integer(8)),
      cost: random.uniform() * weights,
    }));
    return { layers: [`layer${u}`], choices };
  });
}

/** The least cost, by looking at every combination. */
function leastCost(units: readonly ChoiceUnit[], bytes: number): number {
  if (bytes < 0) return Infinity;
  const [first, ...rest] = units;
  if (!first) return 0;
  return Math.min(
    ...first.choices.map((own) => own.cost + leastCost(rest, bytes - own.bytes)),
  );
}

Deno.test("the exact choice has the least cost of all combinations, and greedy ones fit too", () => {
  let better = 0;
  for (let seed = 0; seed < 60; seed++) {
    const units = randomUnits(seed, 6, 4);
    const least = units.reduce((sum, own) => sum + Math.min(...own.choices.map((c) => c.bytes)), 0);
    for (const factor of [1, 1.2, 1.7, 4]) {
      const bytes = Math.floor(least * factor);
      const exact = chooseSchemes(units, { bytes });
      const greedy = chooseSchemes(units, { bytes, method: "greedy" });
      const wanted = leastCost(units, bytes);
      assert(Math.abs(exact.cost - wanted) < 1e-9, `${exact.cost}, wanted ${wanted}`);
      assert(exact.bytes <= bytes && greedy.bytes <= bytes);
      assert(greedy.cost >= exact.cost - 1e-9);
      if (greedy.cost > exact.cost + 1e-9) better++;
    }
  }
  assert(better > 3, `greedy was worse ${better} times only: the cases are too easy`);
});

Deno.test("with sizes that are too many to look at all, a choice still fits", () => {
  const units = randomUnits(1, 30, 5).map(({ layers, choices }) => ({
    layers,
    choices: choices.map((own) => ({ ...own, bytes: own.bytes * 100_003 + 7 })),
  }));
  const least = units.reduce((sum, own) => sum + Math.min(...own.choices.map((c) => c.bytes)), 0);
  const bytes = Math.floor(1.5 * least);
  const exact = chooseSchemes(units, { bytes });
  assert(exact.resolution > 1 && exact.bytes <= bytes);
  assert(exact.cost <= 1.001 * chooseSchemes(units, { bytes, method: "greedy" }).cost);
});

Deno.test("choices become rules, and a size that is too small is refused", () => {
  const choices = [
    { scheme: "int4", bytes: 5, cost: 1 },
    { scheme: "int8", bytes: 9, cost: 0.1 },
    // Larger and worse: never chosen.
    { scheme: "nf4", bytes: 10, cost: 0.2 },
  ];
  const units = ["a", "b"].map((name) => ({ layers: [name, `${name}2`], choices }));
  assertEquals(chooseSchemes(units, { bytes: 1000 }).policy.rules, [
    { layers: ["a", "a2", "b", "b2"], scheme: "int8" },
  ]);
  const one = chooseSchemes(units, { bytes: 14 });
  assertEquals([one.bytes, one.policy.rules.length], [14, 2]);
  assertThrows(
    () => chooseSchemes(units, { bytes: 9 }),
    RangeError,
    "the smallest of the schemes take 10",
  );
  const broken = [{ layers: ["a"], choices: [{ scheme: "int4", bytes: 5, cost: NaN }] }];
  assertThrows(() => chooseSchemes(broken, { bytes: 9 }), RangeError, "cost NaN");
  assertThrows(
    () => chooseSchemes([{ layers: ["a"], choices: [] }], { bytes: 9 }),
    RangeError,
    "none",
  );
});
