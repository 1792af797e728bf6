import { backward } from "../../../core/autograd.ts";
import { empty, tensor } from "../../../core/tensor.ts";
import { int8Matmul } from "../../../kernels/linear/int8_matmul.ts";
import {
  type ByteVariant,
  chooseBytes,
  codeSums,
  runBytes,
} from "../../../kernels/linear/int8_product.ts";
import { int8MatmulRef, type IntegerRef } from "../../../kernels/linear/int8_matmul_ref.ts";
import { byteStream, fitsByteStream } from "../../../kernels/linear/int8_stream.ts";
import { byteTiles, fitsByteTiles } from "../../../kernels/linear/int8_tile.ts";
import { type ByteProduct, hasByteCodes } from "../../../kernels/linear/int8_words.ts";
import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { quantizeFourBit } from "../../../kernels/quant/four_bit_quantize.ts";
import { integerFromCodes, integerParts } from "../../../kernels/quant/integer_codes.ts";
import {
  type IntegerTensor,
  type IntegerType,
  quantizeInteger,
} from "../../../kernels/quant/integer.ts";
import { type ActivationScheme, quantizeRows } from "../../../kernels/quant/quantize_rows.ts";
import type { RowsRef } from "../../../kernels/quant/quantize_rows_ref.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import {
  assert,
  assertEquals,
  assertRejects,
  assertRelativeError,
  assertThrows,
} from "../../assert.ts";
import { device, randomIntegers, randomNumbers } from "../../device.ts";

const DYNAMIC: ActivationScheme = { kind: "dynamic" };
const STATIC: ActivationScheme = { kind: "static", scale: 0.021, zero: 0 };
const SHIFTED: ActivationScheme = { kind: "static", scale: 0.017, zero: -45 };

/** The codes of a weight on the host, as its kernels take them apart. */
async function codesOf(w: IntegerTensor): Promise<IntegerRef> {
  const codes = [...(await integerParts(w)).codes];
  const pairs = await w.scales.read();
  const at = (odd: number) => [...pairs.filter((_, i) => i % 2 === odd)];
  return { codes, scales: at(0), zeros: at(1), groupSize: w.groupSize };
}

/** The bytes that the device made of rows: what follows is then exact. */
async function rowsOf(x: Float32Array, shape: readonly number[], scheme: ActivationScheme) {
  const rows = quantizeRows(tensor(device, x, shape), scheme);
  const words = rows.codes.shape[1];
  const columns = shape.at(-1)!;
  const bytes = new Int8Array((await rows.codes.read()).slice().buffer);
  const codes = Int32Array.from(bytes).filter((_, i) => i % (4 * words) < columns);
  const ref: RowsRef = { codes, scales: Float64Array.from(await rows.scales.read()) };
  return { rows, ref };
}

Deno.test("products of bytes are the reference in every variant", async () => {
  const cases: [IntegerType, number | undefined, ActivationScheme, number, number, number][] = [
    ["int8", undefined, DYNAMIC, 1, 1, 4],
    ["int8", undefined, DYNAMIC, 2, 37, 64],
    ["int8", undefined, DYNAMIC, 70, 133, 100],
    ["int8", undefined, STATIC, 8, 21, 576],
    ["int8", undefined, SHIFTED, 3, 18, 64],
    ["int8", undefined, SHIFTED, 66, 130, 76],
    ["int8", 32, DYNAMIC, 5, 20, 80],
    ["int8", 64, SHIFTED, 9, 70, 160],
    ["int4", 64, DYNAMIC, 1, 12, 640],
    ["int4", 64, DYNAMIC, 65, 67, 200],
    ["int4", 64, SHIFTED, 4, 31, 200],
    ["int4", 32, SHIFTED, 17, 33, 136],
    ["int4", 16, DYNAMIC, 7, 9, 48],
    ["int4", undefined, STATIC, 2, 6, 8],
    // Words cross rows, or groups.
    ["int8", undefined, DYNAMIC, 3, 5, 7],
    ["int4", 12, SHIFTED, 3, 5, 30],
    // There are no kernels of bytes for these.
    ["int3", 32, SHIFTED, 3, 9, 96],
    ["int2", 64, DYNAMIC, 12, 8, 128],
  ];
  for (const [type, groupSize, scheme, m, n, k] of cases) {
    const w = quantizeInteger(device, randomNumbers(n * k, k), [n, k], { type, groupSize });
    const { rows, ref } = await rowsOf(randomNumbers(m * k, m), [m, k], scheme);
    const d = randomNumbers(m * n, 9);
    const add = tensor(device, d, [m, n]);
    const wanted = int8MatmulRef(ref, rows.zero, await codesOf(w), [m, n, k], d);
    const sums = hasByteCodes(w) ? codeSums(w) : undefined;
    const out = () => empty(device, [m, n]);
    const product: ByteProduct = { x: rows, weight: w, sums, add, out: out(), m };
    const what = `${type} ${groupSize} ${JSON.stringify(scheme)} ${m}x${n}x${k}`;
    const check = async (name: string, run: (own: ByteProduct) => void) => {
      const own = { ...product, out: out() };
      run(own);
      assertRelativeError(await own.out.read(), wanted, 1e-6, `${name} ${what}`);
    };
    let checked = 0;
    for (const native of [true, false]) {
      if (fitsByteStream(product)) {
        checked++;
        await check(
          "stream",
          (own) => byteStream({ x: rows, m, weights: [w], outs: [own.out], add }, native),
        );
      }
      if (!fitsByteTiles(product)) continue;
      checked++;
      for (const side of native && m > 16 ? [4, 8] as const : [4] as const) {
        await check(`tiles ${side}`, (own) => byteTiles(own, side, native));
      }
    }
    assert(
      checked > 0 || k % 8 !== 0 || !hasByteCodes(w),
      `${what}: no kernel of bytes was tested`,
    );
    const variants: ByteVariant[] = ["decode", chooseBytes(product)];
    for (const variant of variants) {
      const y = runBytes(rows, w, { add, sums, variant });
      assertRelativeError(await y.read(), wanted, 2e-6, `${variant} ${what}`);
    }
    const y = runBytes(rows, w, { add });
    assertRelativeError(await y.read(), wanted, 2e-6, what);
  }
});

Deno.test("products of bytes take zero points that are not whole, as HQQ gives them", async () => {
  const [m, n, k, groupSize] = [5, 10, 128, 32];
  const w = integerFromCodes(device, [n, k], {
    type: "int4",
    groupSize,
    codes: Uint8Array.from(randomIntegers(n * k, 16, 1)),
    scales: Float32Array.from({ length: 2 * n * k / groupSize }, (_, i) => 0.1 + i % 7),
  });
  const { rows, ref } = await rowsOf(randomNumbers(m * k, 2), [m, k], SHIFTED);
  const wanted = int8MatmulRef(ref, rows.zero, await codesOf(w), [m, n, k]);
  for (const variant of ["stream", "tiles", "decode"] as const) {
    const y = runBytes(rows, w, { variant });
    assertRelativeError(await y.read(), wanted, 1e-6, variant);
  }
});

Deno.test("the largest sums of bytes are exact", async () => {
  // 127 · 127 · 4096 is far beyond what floats count in ones.
  const k = 4096;
  const w = quantizeInteger(device, new Float32Array(2 * k).fill(1), [2, k], { type: "int8" });
  const x = new Float32Array(9 * k).fill(127);
  const one = (k - 1) * 127 * 127 - 127;
  for (let row = 0; row < 9; row++) x[row * k] = -1;
  for (const [variant, m] of [["stream", 8], ["tiles", 9]] as const) {
    const { rows } = await rowsOf(x.subarray(0, m * k), [m, k], DYNAMIC);
    const y = await runBytes(rows, w, { variant }).read();
    const wanted = one / 127; // weights of 1 have the scale 1 / 127
    y.forEach((value) => assert(Math.abs(value / wanted - 1) < 2 ** -22, `${variant} ${value}`));
  }
});

Deno.test("int8Matmul() gives rows with NaN or infinity NaN, and others what they are", async () => {
  const [n, k] = [12, 64];
  for (const m of [3, 20]) {
    const x = randomNumbers(m * k, 1);
    x[k + 5] = Infinity;
    x[2 * k] = NaN;
    const w = quantizeInteger(device, randomNumbers(n * k, 2), [n, k], { type: "int8" });
    for (const scheme of [DYNAMIC, STATIC, SHIFTED]) {
      const { rows } = await rowsOf(x, [m, k], scheme);
      for (const variant of [m > 8 ? "tiles" : "stream", "decode"] as const) {
        const y = await runBytes(rows, w, { variant }).read();
        y.forEach((value, i) => {
          const row = Math.floor(i / n);
          assertEquals(Number.isNaN(value), row === 1 || row === 2, `${variant} row ${row}`);
        });
      }
    }
  }
});

Deno.test("int8Matmul() passes gradients as if rounding were none", async () => {
  const [m, n, k] = [6, 12, 32];
  for (const [type, activations] of [["int8", DYNAMIC], ["int4", SHIFTED]] as const) {
    const w = quantizeInteger(device, randomNumbers(n * k, 3), [n, k], { type, groupSize: 16 });
    const x = tensor(device, randomNumbers(m * k, 4), [2, 3, k]);
    const add = tensor(device, randomNumbers(m * n, 5), [2, 3, n]);
    x.requiresGrad = add.requiresGrad = true;
    const y = int8Matmul(x, w, { activations, add });
    assertEquals(y.shape, [2, 3, n]);
    const g = randomNumbers(m * n, 6);
    backward(sum(mul(y, tensor(device, g, [2, 3, n]))));
    const dense = await w.dequantize().read() as Float32Array;
    assertEquals(x.grad!.shape, [2, 3, k]);
    assertRelativeError(await x.grad!.read(), matmulRef(g, dense, { m, n: k, k: n }), 1e-6);
    assertRelativeError(await add.grad!.read(), g, 1e-6);
  }
});

Deno.test("int8Matmul() says what it cannot multiply", async () => {
  const x = tensor(device, randomNumbers(64, 1), [2, 32]);
  const int8 = quantizeInteger(device, randomNumbers(64, 2), [4, 16], { type: "int8" });
  assertThrows(() => int8Matmul(x, int8), RangeError, "[2,32] by int8 [4,16]ᵀ");
  const wide = quantizeInteger(device, randomNumbers(128, 2), [4, 32], { type: "int8" });
  const add = tensor(device, new Float32Array(6), [2, 3]);
  assertThrows(() => int8Matmul(x, wide, { add }), RangeError, "wanted [2,4]");
  const nf4 = await quantizeFourBit(tensor(device, randomNumbers(128, 2), [4, 32]));
  await assertRejects(
    // deno-lint-ignore require-await -- the error is thrown, not rejected
    async () => int8Matmul(x, nf4 as unknown as IntegerTensor),
    TypeError,
    "a weight in nf4: wanted integers",
  );
});
