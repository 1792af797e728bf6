import { sizeOf } from "../../../core/shape.ts";
import { add, div, mul, sub } from "../../../kernels/pointwise/arithmetic.ts";
import { arithmeticRef } from "../../../kernels/pointwise/arithmetic_ref.ts";
import { assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const SHAPES = [
  [[3, 5], [3, 5]],
  [[70], [70]],
  [[4, 6], [6]],
  [[4, 1], [1, 6]],
  [[2, 3, 4], [3, 1]],
  [[], [2, 2]],
  [[2, 1, 3, 1], [4, 1, 5]],
  [[4, 8], [8]],
  [[3, 8], [3, 1]],
  [[1, 8], [5, 1]],
  [[9], [1]],
  [[2, 1, 3, 8], [4, 1, 8]],
  [[3, 5, 16], [3, 1, 16]],
];

Deno.test("add(), sub(), mul() and div() match the reference, broadcast, and differentiate", async () => {
  await onBoth(async () => {
    for (const [name, op] of Object.entries({ add, sub, mul, div })) {
      for (const [p, q] of SHAPES) {
        const a = { data: randomNumbers(sizeOf(p), 1), shape: p };
        // divisors away from zero
        const b = {
          data: randomNumbers(sizeOf(q), 2).map((x) => Math.sign(x) * (1 + x * x)),
          shape: q,
        };
        await checkOp([a, b], op, (x, y) => arithmeticRef(name as "add", x, p, y, q).data);
      }
    }
  });
});

Deno.test("add() sums both gradients of a tensor that is used twice", async () => {
  const x = { data: randomNumbers(6, 3), shape: [6] };
  await checkOp(
    [x],
    (t) => add(t, mul(t, t)),
    (v) => Float64Array.from(v, (value) => value + value * value),
  );
});

Deno.test("add() refuses shapes that do not broadcast", () => {
  assertThrows(
    () => add(randomTensor([2, 3], 1), randomTensor([2, 4], 2)),
    RangeError,
    "Cannot add [2,3] and [2,4]: lengths 3 and 4 of axis -1 differ and neither is 1",
  );
  assertThrows(
    () => add(randomTensor([2, 1, 3, 1, 2], 1), randomTensor([4, 1, 5, 1], 2)),
    RangeError,
    "broadcasting alternates over more than 4 groups of axes",
  );
});
