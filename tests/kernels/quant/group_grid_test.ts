import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { affineParameters, type AffineScheme } from "../../../kernels/quant/affine.ts";
import { fakeQuantize } from "../../../kernels/quant/fake_quant.ts";
import { fakeQuantGradientsRef, fakeQuantRef } from "../../../kernels/quant/fake_quant_ref.ts";
import {
  groupRanges,
  observeRange,
  rangeGrid,
  totalRange,
} from "../../../kernels/quant/group_grid.ts";
import { groupRangesRef } from "../../../kernels/quant/group_grid_ref.ts";
import { groupSum } from "../../../kernels/quant/group_sum.ts";
import { logStep } from "../../../kernels/quant/log_step.ts";
import { logStepRef } from "../../../kernels/quant/log_step_ref.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { assertAllClose, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

/** The numbers of each group, along rows of so many columns. */
function groupsOf(numbers: Float32Array, columns: number, size: number): Float32Array[] {
  const groups: Float32Array[] = [];
  for (let row = 0; row < numbers.length; row += columns) {
    for (let from = 0; from < columns; from += size) {
      groups.push(numbers.subarray(row + from, row + Math.min(from + size, columns)));
    }
  }
  return groups;
}

Deno.test("ranges of groups are found in short and in long ones, and in a shorter last one", async () => {
  const [rows, columns] = [5, 200];
  const numbers = randomNumbers(rows * columns, 1);
  const x = tensor(device, numbers, [rows, columns]);
  for (const size of [1, 7, 40, 64, 65, 150, 200, 1000]) {
    const found = await groupRanges(x, size).read();
    const expected = groupRangesRef(numbers, columns, size);
    assertEquals([...found], expected, `groups of ${size}`);
  }
  assertEquals([...await totalRange(x).read()], [Math.min(...numbers), Math.max(...numbers)]);
  assertThrows(() => groupRanges(x, 0), RangeError, "groups of 0");
});

Deno.test("scale and zero of a range are those of affineParameters(); nothing but zeros, or nothing, has scale 0", async () => {
  // No zero point lies halfway between two: there a device may round its division to either.
  const ranges = [[-1, 2], [0.5, 3], [-4, -1], [-0.3, 0.1], [0, 7], [-1e-3, 2.1e-4]];
  const schemes: AffineScheme[] = [
    { bits: 4, kind: "asymmetric" },
    { bits: 8, kind: "asymmetric", levels: "signed" },
    { bits: 4, kind: "symmetric" },
    { bits: 3, kind: "symmetric-full" },
    { bits: 8, kind: "symmetric", levels: "unsigned" },
  ];
  for (const scheme of schemes) {
    const all = new Float32Array([...ranges, [0, 0], [1, -1]].flat());
    const grid = rangeGrid(tensor(device, all, [all.length / 2, 2]), scheme);
    const [scales, zeros] = await Promise.all([grid.scales.read(), grid.zeros.read()]);
    for (const [i, [low, high]] of ranges.entries()) {
      const wanted = affineParameters({ low, high }, scheme);
      const what = `${JSON.stringify(scheme)} of ${low} to ${high}`;
      assertRelativeError([scales[i]], [wanted.scale], 1e-6, what);
      assertEquals(zeros[i] + 0, wanted.zero + 0, what);
    }
    assertEquals([...scales.slice(-2)], [0, 0]);
  }
});

Deno.test("an observer follows the first steps once each, and then keeps what it found", async () => {
  const state = {
    running: tensor(device, Float32Array.of(1, -1)),
    found: tensor(device, Float32Array.of(1, -1)),
    last: tensor(device, new Float32Array(1)),
  };
  const step = tensor(device, new Uint32Array(1));
  const batches = [[-1, 4], [-3, 2], [-9, 9]];
  const look = async (now: number, batch: number[]) => {
    device.write(step, Uint32Array.of(now));
    const x = tensor(device, Float32Array.from([...batch, 0, 0.5]), [2, 2]);
    observeRange(x, step, state, { steps: 2, momentum: 0.5 });
    return [...await state.running.read(), ...await state.found.read()];
  };
  assertEquals(await look(1, batches[0]), [-1, 4, 1, -1]);
  // The same step again, as where a block is computed twice.
  assertEquals(await look(1, batches[2]), [-1, 4, 1, -1]);
  assertEquals(await look(2, batches[1]), [-2, 3, 1, -1]);
  assertEquals(await look(3, batches[2]), [-2, 3, -2, 3]);
  assertEquals(await look(4, batches[2]), [-2, 3, -2, 3]);
});

Deno.test("groupSum() is the sum of each group, whether they divide the row or not", async () => {
  const [rows, columns] = [3, 130];
  const numbers = randomNumbers(rows * columns, 2);
  for (const size of [1, 13, 64, 100, 130]) {
    const sums = groupsOf(numbers, columns, size).map((group) => group.reduce((a, b) => a + b, 0));
    const found = await groupSum(tensor(device, numbers, [rows, columns]), size).read();
    assertRelativeError(found, sums, 1e-6, `groups of ${size}`);
  }
});

Deno.test("fakeQuantize() matches the reference where the last group of a row is shorter", async () => {
  const [rows, columns, groupSize] = [4, 22, 8];
  const data = randomNumbers(rows * columns, 5, 1.5);
  const weights = randomNumbers(rows * columns, 6);
  const perRow = Math.ceil(columns / groupSize);
  const scales = randomNumbers(rows * perRow, 7).map((s) => 0.1 + 0.2 * Math.abs(s));
  // One group is left as it is.
  scales[4] = 0;
  const zeros = Float32Array.from(scales, (_, i) => i % 3 - 1);
  const shape = [rows, perRow];
  const inputs = [tensor(device, data, [rows, columns])];
  inputs.push(tensor(device, scales, shape), tensor(device, zeros, shape));
  for (const t of inputs) t.requiresGrad = true;
  const levels = { least: -8, most: 7 };
  const y = fakeQuantize(inputs[0], inputs[1], inputs[2], { ...levels, groupSize });
  backward(sum(mul(y, tensor(device, weights, [rows, columns]))));
  const [parts, ways] = [data, weights].map((t) => groupsOf(t, columns, groupSize));
  const cases = parts.map((x, i) => ({ x, scale: scales[i], zero: zeros[i], ...levels }));
  assertRelativeError(await y.read(), cases.flatMap(fakeQuantRef), 1e-6, "y");
  const gradients = cases.map((one, i) => fakeQuantGradientsRef(one, ways[i], 1));
  const found = await Promise.all(inputs.map((t) => t.grad!.read()));
  assertRelativeError(found[0], gradients.flatMap(({ x }) => x), 1e-6, "x");
  assertRelativeError(found[1], gradients.map(({ scale }) => scale), 2e-6, "scales");
  assertRelativeError(found[2], gradients.map(({ zero }) => zero), 2e-6, "zeros");
  const wrong = { ...levels, groupSize: 7 };
  assertThrows(
    () => fakeQuantize(inputs[0], inputs[1], inputs[2], wrong),
    RangeError,
    "of 7 in 22",
  );
});

Deno.test("fakeQuantize() lets NaN and infinity through, so that a loss shows them", async () => {
  const x = tensor(device, Float32Array.of(NaN, Infinity, -Infinity, 9, 0.3));
  const [scale, zero] = [Float32Array.of(0.5), Float32Array.of(0)].map((v) => tensor(device, v));
  const y = await fakeQuantize(x, scale, zero, { least: -8, most: 7 }).read();
  assertEquals([...y], [NaN, Infinity, -Infinity, 3.5, 0.5]);
});

Deno.test("logStep() is base · e^x, and its gradient is g · y", async () => {
  const [base, x, g] = [1, 2, 3].map((seed) => randomNumbers(70, seed).map(Math.abs));
  const at = tensor(device, x);
  at.requiresGrad = true;
  const y = logStep(tensor(device, base), at);
  backward(sum(mul(y, tensor(device, g))));
  const expected = logStepRef(base, x);
  assertAllClose(await y.read(), expected, { relative: 2e-6 });
  assertAllClose(await at.grad!.read(), expected.map((v, i) => v * g[i]), { relative: 2e-6 });
});
