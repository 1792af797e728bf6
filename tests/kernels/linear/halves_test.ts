/** Products with a right operand of 16-bit floats: they must give what the same numbers in 32 bits give. */
import { backward } from "../../../core/autograd.ts";
import { empty, type Tensor, tensor } from "../../../core/tensor.ts";
import { embedding } from "../../../kernels/embedding/embedding.ts";
import { gemvRef } from "../../../kernels/linear/gemv_ref.ts";
import { chooseVariant, matmul } from "../../../kernels/linear/matmul.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { multiplyGated, multiplyMany } from "../../../kernels/linear/multiply_many.ts";
import type { Product } from "../../../kernels/linear/product.ts";
import { streamProduct } from "../../../kernels/linear/stream_product.ts";
import { tileMatmul } from "../../../kernels/linear/tile.ts";
import { TILE_SHAPES, tilesOf } from "../../../kernels/linear/tile_plan.ts";
import { denseFormat } from "../../../kernels/linear/weight_format.ts";
import { linearCrossEntropy } from "../../../kernels/loss/linear_cross_entropy.ts";
import { cast } from "../../../kernels/pointwise/cast.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { onBoth } from "../../as_gpu.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomIntegers, randomNumbers } from "../../device.ts";

/** Normal numbers as halves; every fifth is so small that a half has no leading one for it. */
function randomHalves(size: number, seed: number, deviation = 1): Float16Array {
  const numbers = randomNumbers(size, seed, deviation);
  return Float16Array.from(numbers, (x, i) => i % 5 === 0 ? x * 2 ** -16 : x);
}

/** The same numbers as a tensor in 16 bits, and as one in 32. */
function pairOf(numbers: Float16Array, shape: readonly number[]): { half: Tensor; full: Tensor } {
  return {
    half: tensor(device, numbers, shape),
    full: tensor(device, new Float32Array(numbers), shape),
  };
}

Deno.test("streamProduct() gives the same bits for weights in 16 bits as in 32", async () => {
  for (const [m, n, k] of [[1, 5, 4], [2, 33, 132], [8, 9, 516]]) {
    const x = randomNumbers(m * k, 1);
    const w = randomHalves(n * k, 2);
    const { half, full } = pairOf(w, [n, k]);
    const run = async (weight: Tensor) => {
      const out = tensor(device, new Float32Array(m * n).fill(NaN), [m, n]);
      const formats = [denseFormat(weight)];
      streamProduct({ x: tensor(device, x, [m, k]), m, formats, outs: [out], alpha: 0.5 });
      return await out.read();
    };
    const found = await run(half);
    assertEquals(found, await run(full), `${m}x${n}x${k}`);
    assertRelativeError(found, gemvRef(x, w, { rows: m, n, k, alpha: 0.5 }), 1e-6);
  }
});

Deno.test("tiles give the same bits for B in 16 bits as in 32, in shapes of every kind", async () => {
  // One copy in workgroup memory and two; four rows at a time, and one.
  const quads = TILE_SHAPES.find((shape) => shape.quads && shape.rows < 128);
  const single = TILE_SHAPES.find((shape) => !shape.quads && shape.turn === 1);
  const double = TILE_SHAPES.find((shape) => !shape.quads && shape.turn > 1 && shape.rows < 128);
  const shapes = [quads, single, double].filter((shape) => shape !== undefined);
  assert(shapes.length >= 2);
  const sizes = [[70, 132, 100], [128, 128, 64]];
  for (const [i, shape] of shapes.entries()) {
    for (const layout of ["nn", "nt"] as const) {
      const [m, n, k] = sizes[i % 2];
      const a = randomNumbers(m * k, 3);
      const b = randomHalves(n * k, 4);
      const { half, full } = pairOf(b, layout === "nt" ? [n, k] : [k, n]);
      const run = async (own: Tensor) => {
        const product: Product = {
          a: tensor(device, a, [m, k]),
          b: own,
          add: undefined,
          out: empty(device, [m, n]),
          layout,
          m,
          n,
          k,
          batch: 1,
          ownB: false,
          alpha: 1,
        };
        const whole = i === 1 ? 0 : tilesOf(product, shape);
        const splits = i === 1 ? 2 : 1;
        tileMatmul(product, undefined, undefined, { shape, whole, splits });
        return await product.out.read();
      };
      const found = await run(half);
      const what = `${layout} ${Object.values(shape)}`;
      assertEquals(found, await run(full), what);
      assertRelativeError(found, matmulRef(a, b, { m, n, k, transposeB: layout === "nt" }), 1e-6);
    }
  }
});

Deno.test("matmul() takes B in 16 bits forward and backward, in any shape", async () => {
  await onBoth(async () => {
    // Tiles, also with a vocabulary of any size; a stream; and rows that no kernel takes as halves.
    for (const [m, n, k] of [[40, 36, 68], [130, 133, 64], [3, 8, 64], [12, 7, 9]]) {
      for (const transposeB of [true, false]) {
        const { half, full } = pairOf(randomHalves(n * k, 5), transposeB ? [n, k] : [k, n]);
        const x = randomNumbers(m * k, 6);
        const weights = tensor(device, randomNumbers(m * n, 7), [m, n]);
        const add = tensor(device, randomNumbers(m * n, 8), [m, n]);
        const run = async (b: Tensor) => {
          const a = tensor(device, x, [m, k]);
          a.requiresGrad = true;
          const y = matmul(a, b, { transposeB, add });
          backward(sum(mul(y, weights)));
          return [await y.read(), await a.grad!.read()];
        };
        const [found, expected] = [await run(half), await run(full)];
        const what = `${m}x${n}x${k} ${transposeB}`;
        assertRelativeError(found[0], expected[0], 1e-6, what);
        assertRelativeError(found[1], expected[1], 1e-6, what);
      }
    }
  });
});

Deno.test("matmul() with B in 16 bits differentiates by a transposed A", async () => {
  const [m, n, k] = [8, 12, 16];
  const { half, full } = pairOf(randomHalves(k * n, 9), [k, n]);
  const run = async (b: Tensor) => {
    const a = tensor(device, randomNumbers(k * m, 10), [k, m]);
    a.requiresGrad = true;
    backward(sum(matmul(a, b, { transposeA: true })));
    return await a.grad!.read();
  };
  assertRelativeError(await run(half), await run(full), 1e-6);
});

Deno.test("matmul() widens B once on software Vulkan, where that is fastest", () => {
  if (device.adapter.type !== "software") return;
  const { half } = pairOf(randomHalves(64 * 64, 11), [64, 64]);
  const out = empty(device, [64, 64]);
  const sizes = { m: 64, n: 64, k: 64, batch: 1, ownB: false, alpha: 1 };
  const product: Product = { a: out, b: half, add: undefined, out, layout: "nt", ...sizes };
  assertEquals(chooseVariant(product), "decode");
});

Deno.test("what is in 16 bits cannot be trained", () => {
  const { half } = pairOf(randomHalves(16, 12), [4, 4]);
  half.requiresGrad = true;
  const x = tensor(device, randomNumbers(4, 13), [1, 4]);
  assertThrows(() => matmul(x, half), TypeError, "cast it to f32 first");
  const ids = tensor(device, new Int32Array([1]));
  assertThrows(() => embedding(half, ids), TypeError, "cast it to f32 first");
});

Deno.test("linearCrossEntropy() takes a weight in 16 bits: loss and gradient of hidden", async () => {
  await onBoth(async () => {
    const [rows, classes, width] = [72, 100, 32];
    const { half, full } = pairOf(randomHalves(classes * width, 14, 0.3), [classes, width]);
    const targets = tensor(device, randomIntegers(rows, classes, 15));
    const run = async (weight: Tensor) => {
      const hidden = tensor(device, randomNumbers(rows * width, 16), [rows, width]);
      hidden.requiresGrad = true;
      const loss = linearCrossEntropy(hidden, weight, targets, { logitBytes: 1 });
      backward(loss);
      return { loss: await loss.item(), grad: await hidden.grad!.read() };
    };
    const [found, expected] = [await run(half), await run(full)];
    assertRelativeError([found.loss], [expected.loss], 1e-6);
    assertRelativeError(found.grad, expected.grad, 1e-6);
  });
});

Deno.test("multiplyMany() and multiplyGated() take weights in 16 bits beside others", async () => {
  await onBoth(async () => {
    const [m, k] = [2, 128];
    const one = pairOf(randomHalves(12 * k, 17), [12, k]);
    const two = pairOf(randomHalves(12 * k, 18, 0.1), [12, k]);
    const x = tensor(device, randomNumbers(m * k, 19), [m, k]);
    const norm = { gain: tensor(device, randomNumbers(k, 20)) };
    const many = multiplyMany(x, [one.half, two.full], { norm });
    const wanted = multiplyMany(x, [one.full, two.full], { norm });
    for (const i of [0, 1]) {
      assertRelativeError(await many[i].read(), await wanted[i].read(), 1e-6, `${i}`);
    }
    assertRelativeError(
      await multiplyGated(x, one.half, two.half, { norm }).read(),
      await multiplyGated(x, one.full, cast(two.half, "f32"), { norm }).read(),
      1e-6,
    );
  });
});
