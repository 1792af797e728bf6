import { tensor } from "../../../core/tensor.ts";
import { type AffineScheme, levelsOf } from "../../../kernels/quant/affine.ts";
import { gptq } from "../../../kernels/quant/gptq.ts";
import { gptqRowRef } from "../../../kernels/quant/gptq_ref.ts";
import { hqq } from "../../../kernels/quant/hqq.ts";
import { hqqRef } from "../../../kernels/quant/hqq_ref.ts";
import { inverseFactor } from "../../../train/quant/inverse_factor.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

/** XᵀX of correlated inputs. */
function hessianOf(samples: number, n: number, seed: number): { x: Float32Array; h: Float64Array } {
  const own = randomNumbers(samples * n, seed);
  const x = own.map((value, i) => value + 0.8 * own[Math.floor(i / n) * n]);
  const h = new Float64Array(n * n);
  for (let s = 0; s < samples; s++) {
    for (let i = 0; i < n; i++) {
      for (let j = 0; j < n; j++) h[i * n + j] += x[s * n + i] * x[s * n + j];
    }
  }
  return { x, h };
}

Deno.test("inverseFactor() gives the upper factor of the inverse, and counts dead columns as 1", () => {
  const n = 37;
  const { h } = hessianOf(100, n, 1);
  for (let j = 0; j < n; j++) h[5 * n + j] = h[j * n + 5] = 0;
  const u = inverseFactor(h, n, 0.01);
  let trace = 0;
  for (let i = 0; i < n; i++) trace += h[i * n + i];
  const damped = h.slice();
  damped[5 * n + 5] = 1;
  for (let i = 0; i < n; i++) damped[i * n + i] += 0.01 * trace / n;
  // (UᵀU) · H must be the identity.
  const inverse = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    for (let j = 0; j < n; j++) {
      for (let k = 0; k < n; k++) inverse[i * n + j] += u[k * n + i] * u[k * n + j];
      if (i > j) assertEquals(u[i * n + j], 0);
    }
  }
  const product = new Float64Array(n * n);
  const identity = new Float64Array(n * n);
  for (let i = 0; i < n; i++) {
    identity[i * n + i] = 1;
    for (let j = 0; j < n; j++) {
      for (let k = 0; k < n; k++) product[i * n + j] += inverse[i * n + k] * damped[k * n + j];
    }
  }
  assertRelativeError(product, identity, 1e-4);
  assertThrows(() => inverseFactor([1, 2, 2, 1], 2, 0), RangeError, "positive definite");
});

Deno.test("gptq() makes the reference's codes, in groups that blocks do not divide, and loses less than rounding", async () => {
  const [rows, columns, samples] = [70, 100, 400];
  const { x, h } = hessianOf(samples, columns, 2);
  const u = inverseFactor(h, columns);
  const weights = randomNumbers(rows * columns, 3);
  for (const kind of ["asymmetric", "symmetric"] as const) {
    for (const groupSize of [64, 40, 100]) {
      const scheme: AffineScheme = { bits: 4, kind };
      const { codes, scales } = gptq(
        tensor(device, weights, [rows, columns]),
        tensor(device, u, [columns, columns]),
        scheme,
        groupSize,
      );
      const [found, scale] = [await codes.read(), await scales.read()];
      let different = 0;
      let [own, rounded] = [0, 0];
      const { least, most } = levelsOf(scheme);
      for (let r = 0; r < rows; r++) {
        const row = weights.subarray(r * columns, (r + 1) * columns);
        const expected = gptqRowRef(row, u, scheme, groupSize);
        const plain = gptqRowRef(row, identity(columns), scheme, groupSize);
        const decoded = row.map((_, c) => {
          const at = 2 * (Math.floor(c / groupSize) * rows + r);
          return (found[c * rows + r] + least - scale[at + 1]) * scale[at];
        });
        different += expected.codes.filter((code, c) => code !== found[c * rows + r]).length;
        own += outputError(x, row, decoded, columns);
        rounded += outputError(x, row, plain.weights, columns);
      }
      // A last digit of float32 may decide a rounding, and every later column then differs a little: few may.
      assert(different <= 0.02 * rows * columns, `${different} codes differ`);
      assert(own < 0.6 * rounded, `${kind} ${groupSize}: ${own} against ${rounded}`);
      assert(found.every((code) => code >= 0 && code <= most - least));
    }
  }
});

function identity(n: number): Float64Array {
  const out = new Float64Array(n * n);
  for (let i = 0; i < n; i++) out[i * n + i] = 1;
  return out;
}

/** The squared error of x · w over all samples. */
function outputError(x: Float32Array, w: ArrayLike<number>, decoded: ArrayLike<number>, n: number) {
  let sum = 0;
  for (let s = 0; s < x.length / n; s++) {
    let error = 0;
    for (let i = 0; i < n; i++) error += x[s * n + i] * (w[i] - decoded[i]);
    sum += error * error;
  }
  return sum;
}

Deno.test("hqq() makes the reference's codes and zeros, with a short last group and a group of equals", async () => {
  const [rows, columns, groupSize] = [33, 100, 64];
  const weights = randomNumbers(rows * columns, 4, 0.02);
  weights.fill(0.25, 0, 64);
  weights.fill(0, 100, 164);
  weights[300] = 0.4;
  for (const bits of [4, 3]) {
    const made = hqq(tensor(device, weights, [rows, columns]), bits, groupSize);
    const [codes, scales] = [await made.codes.read(), await made.scales.read()];
    let different = 0;
    let [own, wanted] = [0, 0];
    for (let r = 0; r < rows; r++) {
      for (let g = 0; g < 2; g++) {
        const from = r * columns + g * groupSize;
        const group = weights.subarray(from, Math.min(from + groupSize, (r + 1) * columns));
        const expected = hqqRef(group, 2 ** bits - 1);
        const at = 2 * (2 * r + g);
        const same = Math.abs(scales[at + 1] - expected.zero) < 1e-3 &&
          Math.abs(scales[at] / expected.scale - 1) < 1e-6;
        if (!same || expected.codes.some((code, i) => code !== codes[from + i])) different++;
        for (const [i, w] of group.entries()) {
          const error = Math.abs((codes[from + i] - scales[at + 1]) * scales[at] - w);
          assert(error <= 3 * expected.scale, `${error} of ${expected.scale}`);
          own += error;
          wanted += Math.abs((expected.codes[i] - expected.zero) * expected.scale - w);
        }
      }
    }
    // Where two steps are equally good to a last digit, either may be kept: the error is the same.
    assert(different <= 6, `${different} of 66 groups differ`);
    assert(Math.abs(own / wanted - 1) < 1e-3, `${own} against ${wanted}`);
  }
});

Deno.test("gptq() refuses a factor of another size", () => {
  const scheme: AffineScheme = { bits: 4, kind: "asymmetric" };
  const [weight, factor] = [randomTensor([4, 8], 1), randomTensor([4, 4], 1)];
  assertThrows(() => gptq(weight, factor, scheme, 8), RangeError, "[8,8]");
});
