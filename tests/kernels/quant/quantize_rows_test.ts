import { tensor } from "../../../core/tensor.ts";
import {
  type ActivationScheme,
  dequantizeRows,
  quantizeRows,
} from "../../../kernels/quant/quantize_rows.ts";
import { quantizeRowsRef } from "../../../kernels/quant/quantize_rows_ref.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const DYNAMIC: ActivationScheme = { kind: "dynamic" };

/** The bytes of a row, without its padding; and what the padding holds. */
async function bytesOf(x: Float32Array, rows: number, columns: number, scheme: ActivationScheme) {
  const made = quantizeRows(tensor(device, x, [rows, columns]), scheme);
  const words = Math.ceil(columns / 4);
  const bytes = new Int8Array((await made.codes.read()).slice().buffer);
  const [codes, padding]: [number[], number[]] = [[], []];
  bytes.forEach((byte, i) => (i % (4 * words) < columns ? codes : padding).push(byte));
  return { codes, padding, scales: [...await made.scales.read()], made };
}

Deno.test("quantizeRows() is the reference, with ragged rows, dynamic and static, with and without a zero point", async () => {
  const schemes: ActivationScheme[] = [
    DYNAMIC,
    { kind: "static", scale: 0.02, zero: 0 },
    { kind: "static", scale: 0.013, zero: -37 },
    { kind: "static", scale: 0.05, zero: 0, least: -128 },
  ];
  for (const [rows, columns] of [[1, 1], [2, 3], [3, 64], [9, 130], [2, 1537], [1, 4096]]) {
    const x = randomNumbers(rows * columns, columns);
    for (const scheme of schemes) {
      const wanted = quantizeRowsRef(x, columns, scheme);
      const { codes, padding, scales, made } = await bytesOf(x, rows, columns, scheme);
      assertRelativeError(scales, wanted.scales, 1e-6);
      // One apart where a quotient lies within a division's rounding of half a step.
      const apart = codes.filter((code, i) => code !== wanted.codes[i]);
      assert(apart.length <= codes.length / 1000, `${apart.length} of ${codes.length}`);
      codes.forEach((code, i) => assert(Math.abs(code - wanted.codes[i]) <= 1));
      assert(padding.every((byte) => byte === 0));
      const back = await dequantizeRows(made).read();
      assertEquals(made.shape, [rows, columns]);
      const zero = scheme.kind === "static" ? scheme.zero : 0;
      const decoded = codes.map((code, i) => (code - zero) * scales[Math.floor(i / columns)]);
      assertRelativeError(back, decoded, 1e-6);
    }
  }
});

Deno.test("quantizeRows() gives rows of zeros the scale 0, and saturates", async () => {
  const x = Float32Array.from([0, 0, 0, 0, 1, -2, 1e-38, 0.5]);
  const { codes, scales } = await bytesOf(x, 2, 4, DYNAMIC);
  assertEquals(codes, [0, 0, 0, 0, 64, -127, 0, 32]);
  assertEquals(scales, [0, Math.fround(2 / 127)]);
  const fixed = await bytesOf(x, 2, 4, { kind: "static", scale: 0.01, zero: 5 });
  assertEquals(fixed.codes, [5, 5, 5, 5, 105, -128, 5, 55]);
  const half = await bytesOf(x, 2, 4, { kind: "static", scale: 0.01, zero: 0 });
  assertEquals(half.codes, [0, 0, 0, 0, 100, -127, 0, 50]);
});

Deno.test("quantizeRows() marks rows with NaN or infinity, and no others", async () => {
  for (const columns of [8, 7]) {
    for (const bad of [NaN, Infinity, -Infinity]) {
      for (const scheme of [DYNAMIC, { kind: "static", scale: 1, zero: 3 } as const]) {
        const x = randomNumbers(3 * columns, 5);
        x[columns + 2] = bad;
        const { scales, made } = await bytesOf(x, 3, columns, scheme);
        assertEquals(scales.map(Number.isNaN), [false, true, false]);
        const back = await dequantizeRows(made).read();
        back.forEach((value, i) =>
          assertEquals(Number.isNaN(value), Math.floor(i / columns) === 1)
        );
      }
    }
  }
});

Deno.test("quantizeRows() says which schemes make no sense", () => {
  const x = tensor(device, new Float32Array(8), [2, 4]);
  const run = (scheme: ActivationScheme) => () => quantizeRows(x, scheme);
  for (const scale of [0, -1, NaN, Infinity, 1e-45]) {
    assertThrows(run({ kind: "static", scale, zero: 0 }), RangeError, `a scale of ${scale}`);
  }
  assertThrows(run({ kind: "static", scale: 1, zero: 0.5 }), RangeError, "zero point of 0.5");
  assertThrows(run({ kind: "static", scale: 1, zero: 128 }), RangeError, "zero point of 128");
  assertThrows(run({ kind: "static", scale: 1, zero: 0, least: 0 }), RangeError, "from 0 on");
});
