import { describeWeights, NORMAL_WITHIN, WeightShapes } from "../../../train/quant/weight_shape.ts";
import { assert, assertAllClose, assertEquals, assertThrows } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";

Deno.test("describeWeights() knows a bell, an outlier, and even numbers", () => {
  const bell = randomNumbers(40_000, 5).map((x) => 0.02 * x + 0.001);
  const own = describeWeights(bell);
  assertAllClose(own.within, NORMAL_WITHIN, { absolute: 0.01 });
  assert(Math.abs(own.deviation - 0.02) < 5e-4 && Math.abs(own.excessKurtosis) < 0.15);
  assert(own.largest > 3.5 && own.largest < 6);
  const sum = own.histogram.reduce((a, b) => a + b, 0);
  assert(Math.abs(sum - 1) < 1e-9 && own.histogram[15] > own.histogram[8]);

  const spoiled = bell.slice();
  spoiled[7] = 2;
  const { largest, excessKurtosis } = describeWeights(spoiled);
  assert(largest > 80 && excessKurtosis > 100, `${largest}, ${excessKurtosis}`);

  // By hand: −1 and 1, each one deviation from the mean; the fourth powers' mean is 1.
  const even = describeWeights(new Float32Array([-1, 1, 1, -1]));
  assertEquals([even.deviation, even.largest, even.excessKurtosis], [1, 1, -2]);
  assertEquals([even.within, even.matrices, even.weights], [[1, 1, 1], 1, 4]);
});

Deno.test("matrices count by their own deviations, and zeros and NaN are known", () => {
  const shapes = new WeightShapes();
  assertThrows(() => shapes.report(), RangeError, "there are none");
  shapes.add(new Float32Array([-1, 1]));
  shapes.add(new Float32Array([-100, 100]));
  shapes.add(new Float32Array(4));
  const { deviation, largest, matrices, within } = shapes.report();
  assertEquals([deviation, largest, matrices, within[0]], [101 / 3, 1, 3, 1]);
  assertThrows(() => shapes.add(new Float32Array([1, NaN])), RangeError, "number 1 is NaN");
  assertThrows(() => shapes.add(new Float32Array([Infinity])), RangeError, "number 0 is Infinity");
});
