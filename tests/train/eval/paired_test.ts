import { divergenceOf, logSumExp } from "../../../train/eval/divergence.ts";
import { lossChangeOf, rightnessOf } from "../../../train/eval/paired.ts";
import { assert, assertEquals } from "../../assert.ts";

/** Equal but for rounding. */
function assertNear(actual: number, wanted: number, within = 1e-12): void {
  assert(Math.abs(actual - wanted) <= within, `${actual} is not ${wanted}`);
}

Deno.test("lossChangeOf() weighs windows by their labels, and takes the interval from their spread", () => {
  const before = [{ loss: 10, labels: 10 }, { loss: 4, labels: 5 }];
  const after = [{ loss: 12, labels: 10 }, { loss: 6, labels: 5 }];
  const { mean, interval } = lossChangeOf(before, after);
  assertNear(mean, 4 / 15);
  // By window 0.2 and 0.4: apart from the mean by 1/15 and 2/15.
  assertNear(interval, 1.96 * Math.sqrt((1 + 4) / 225 / 2));
  const [one] = [lossChangeOf(before.slice(1), after.slice(1))];
  assertNear(one.mean, 0.4);
  assert(Number.isNaN(one.interval));
});

Deno.test("rightnessOf() counts what was lost and won", () => {
  const before = [true, true, true, false];
  const { share, drop, interval } = rightnessOf(before, [true, false, false, true]);
  assertEquals([share, drop], [0.5, 0.25]);
  assertNear(interval, 1.96 * Math.sqrt(2 + 1 + 1 - 1 / 6) / 6);
  assertEquals(rightnessOf(before, before), { share: 0.75, drop: 0, interval: 0 });
  // Equal by chance: few pairs leave room for doubt.
  assert(rightnessOf(before, [...before]).interval > 0.3);
});

Deno.test("divergenceOf() is the mean over rows of Σ p log(p / q)", () => {
  assertNear(logSumExp(Float32Array.of(1000, 1000)), 1000 + Math.LN2);
  const log = (...p: number[]) => p.map(Math.log);
  const from = Float32Array.of(...log(0.5, 0.5), ...log(0.75, 0.25));
  const to = Float32Array.of(...log(0.25, 0.75), ...log(0.75, 0.25));
  const wanted = (0.5 * Math.log(2) + 0.5 * Math.log(2 / 3)) / 2;
  assertNear(divergenceOf(from, to, 2), wanted, 1e-6);
  // Logits may lie anywhere: only their differences count.
  assertNear(divergenceOf(from.map((x) => x + 7), to, 2), wanted, 1e-6);
  assertEquals(divergenceOf(from, from, 2), 0);
});
