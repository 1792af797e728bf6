import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { int8MatmulRef } from "../../../kernels/linear/int8_matmul_ref.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { type IntegerType, quantizeInteger } from "../../../kernels/quant/integer.ts";
import { type ActivationScheme, quantizeRows } from "../../../kernels/quant/quantize_rows.ts";
import { rotate } from "../../../kernels/quant/rotate.ts";
import { rotateRef } from "../../../kernels/quant/rotate_ref.ts";
import { RotatedTensor } from "../../../kernels/quant/rotated_tensor.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers } from "../../device.ts";

const [M, N, K, SIZE] = [5, 20, 96, 32];
const BEFORE = randomNumbers(K, 1).map((x) => x + Math.sign(x));
BEFORE[7] = 0;
const AFTER = randomNumbers(K, 2).map((x) => 0.04 * Math.abs(x) + 0.03);
const STATIC: ActivationScheme = { kind: "static", scale: 1.1 / 127, zero: 0 };

/** A weight for turned inputs, and its numbers as they are decoded. */
async function example(type: IntegerType, activations: ActivationScheme = STATIC) {
  const turned = quantizeInteger(device, randomNumbers(N * K, 3), [N, K], { type, groupSize: 32 });
  const rotation = { before: tensor(device, BEFORE), after: tensor(device, AFTER), size: SIZE };
  const weight = new RotatedTensor(turned, rotation, activations);
  return { weight, rotation, decoded: await turned.dequantize().read() as Float32Array };
}

/** Aᵀ of a matrix [rows, columns]. */
const transposed = (a: ArrayLike<number>, rows: number, columns: number) =>
  Float64Array.from(
    { length: rows * columns },
    (_, i) => a[i % rows * columns + Math.floor(i / rows)],
  );

for (const type of ["int8", "int4"] as const) {
  Deno.test(`a turned weight in ${type} is the reference: product, weight, gradient`, async () => {
    await onBoth(async () => {
      const { weight, rotation, decoded } = await example(type);
      const numbers = randomNumbers(M * K, 4);
      const x = tensor(device, numbers, [M, K]);
      const add = randomNumbers(M * N, 5);
      x.requiresGrad = true;
      const y = weight.multiply(x, { add: tensor(device, add, [M, N]) });
      // The bytes are the device's own: numbers halfway between two may go to either.
      const { codes } = quantizeRows(rotate(x, rotation), STATIC);
      const bytes = Int32Array.from(new Int8Array((await codes.read()).slice().buffer));
      const exact = rotateRef(numbers, BEFORE, AFTER, SIZE).map((own) => own / STATIC.scale);
      bytes.forEach((byte, i) =>
        assert(Math.abs(byte - Math.max(-127, Math.min(127, exact[i]))) < 0.501, `${i}`)
      );
      const rows = { codes: bytes, scales: new Float64Array(M).fill(Math.fround(STATIC.scale)) };
      const ones = { scales: new Float64Array(N).fill(1), zeros: new Float64Array(N) };
      const wanted = int8MatmulRef(
        rows,
        0,
        { codes: decoded, ...ones, groupSize: K },
        [M, N, K],
        add,
      );
      assertRelativeError(await y.read(), wanted, 2e-6, "product");

      const dense = rotateRef(decoded, AFTER, BEFORE, SIZE);
      assertRelativeError(await weight.dequantize().read(), dense, 2e-6, "weight");
      for (let n = 0; n < N; n++) assertEquals(dense[n * K + 7] + 0, 0);
      // What was not rounded at all is half a step away in each of K places.
      const plain = matmulRef(numbers, transposed(dense, N, K), { m: M, n: N, k: K });
      const close = Float64Array.from(plain, (own, i) => own + add[i]);
      assertRelativeError(await y.read(), close, 0.02, "rounding");

      const g = randomNumbers(M * N, 6);
      backward(sum(mul(y, tensor(device, g, [M, N]))));
      const slopes = matmulRef(g, dense, { m: M, n: K, k: N });
      assertRelativeError(await x.grad!.read(), slopes, 1e-5, "gradient");
    });
  });
}

Deno.test("a turned weight counts its factors, frees them, and refuses a zero point", async () => {
  const { weight } = await example("int8");
  assertEquals(weight.scheme, "rotated-int8");
  assertEquals(weight.shape, [N, K]);
  assertEquals(weight.bytes, weight.turned.bytes + 2 * 4 * K);
  const { live } = device.memory;
  const { bytes } = weight;
  weight.dispose();
  assert(live - device.memory.live >= bytes);
  const turned = quantizeInteger(device, randomNumbers(N * K, 3), [N, K], { type: "int8" });
  const ones = tensor(device, new Float32Array(K).fill(1));
  assertThrows(
    () =>
      new RotatedTensor(turned, { before: ones, after: ones, size: SIZE }, { ...STATIC, zero: 3 }),
    RangeError,
    "zero point",
  );
});
