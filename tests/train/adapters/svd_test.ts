import { largestSingular, symmetricEigen } from "../../../train/adapters/svd.ts";
import { assert, assertAllClose, assertThrows } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";

/** a [n, m] · bᵀ [k, m]. */
function products(a: ArrayLike<number>, b: ArrayLike<number>, m: number): number[] {
  const [n, k] = [a.length / m, b.length / m];
  return Array.from({ length: n * k }, (_, at) => {
    let sum = 0;
    for (let i = 0; i < m; i++) sum += a[Math.floor(at / k) * m + i] * b[at % k * m + i];
    return sum;
  });
}

function identity(n: number): number[] {
  return Array.from({ length: n * n }, (_, at) => at % (n + 1) === 0 ? 1 : 0);
}

const CLOSE = { relative: 0, absolute: 1e-11 };

for (const [rows, columns, r] of [[1, 1, 1], [2, 3, 2], [3, 2, 1], [40, 60, 40], [64, 32, 5]]) {
  Deno.test(`largestSingular(): ${r} of a ${rows} × ${columns} matrix`, () => {
    const w = randomNumbers(rows * columns, rows + columns);
    const { values, left, right } = largestSingular(w, rows, columns, r);
    assertAllClose(products(left, left, rows), identity(r), CLOSE);
    assertAllClose(products(right, right, columns), identity(r), CLOSE);
    // W · v = σ · u, and Wᵀ · u = σ · v.
    const turned = left.map((value, at) => value * values[Math.floor(at / rows)]);
    assertAllClose(products(right, w, columns), turned, CLOSE);
    assert(values.every((value, i) => value > 0 && (i === 0 || value <= values[i - 1])));
    // Nothing that is left is larger than the smallest that was found.
    const all = largestSingular(w, rows, columns, Math.min(rows, columns)).values;
    assertAllClose(values, all.subarray(0, r), CLOSE);
    const squares = w.reduce((sum, value) => sum + value ** 2, 0);
    const total = all.reduce((sum, value) => sum + value ** 2, 0);
    assert(Math.abs(total / squares - 1) < 1e-12);
  });
}

Deno.test("largestSingular() takes matrices of low rank, with equal values, and of zeros", () => {
  const one = largestSingular([3, 6, 1, 2], 2, 2, 2);
  assertAllClose(one.values, [Math.sqrt(50), 0], { absolute: 1e-7 });
  assertAllClose(largestSingular(identity(6), 6, 6, 4).values, [1, 1, 1, 1], CLOSE);
  const none = largestSingular(new Float32Array(12), 3, 4, 2);
  assertAllClose(none.values, [0, 0], CLOSE);
  assert([...none.left, ...none.right].every(Number.isFinite));
});

Deno.test("symmetricEigen() finds the known values of a chain, and ends on NaN", () => {
  const n = 12;
  const chain = Float64Array.from({ length: n * n }, (_, at) => {
    const apart = Math.abs(Math.floor(at / n) - at % n);
    return apart === 0 ? 2 : apart === 1 ? -1 : 0;
  });
  const wanted = Array.from(
    { length: n },
    (_, i) => 2 - 2 * Math.cos((n - i) * Math.PI / (n + 1)),
  );
  assertAllClose(symmetricEigen(chain, n).values, wanted, CLOSE);
  chain[5] = NaN;
  assertThrows(() => symmetricEigen(chain, n), RangeError, "it holds NaN or infinity");
});
