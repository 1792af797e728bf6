import { matmulRef } from "../../../kernels/linear/matmul_ref.ts";
import { type IntegerType, quantizeInteger } from "../../../kernels/quant/integer.ts";
import { asymmetricRef, symmetricRef } from "../../../kernels/quant/integer_ref.ts";
import { roundHalfEven } from "../../../kernels/quant/rounding.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

/** Group by group, row by row, through the reference. */
function reference(data: Float32Array, columns: number, type: IntegerType, size: number): number[] {
  const out: number[] = [];
  for (let row = 0; row < data.length / columns; row++) {
    for (let from = 0; from < columns; from += size) {
      const group = data.subarray(
        row * columns + from,
        row * columns + Math.min(columns, from + size),
      );
      out.push(...(type === "int8" ? symmetricRef(group) : asymmetricRef(group)));
    }
  }
  return out;
}

Deno.test("roundHalfEven() sends ties to the even number", () => {
  assertEquals([0.5, 1.5, 2.5, -0.5, -1.5, 2.4, -2.6].map((x) => roundHalfEven(x) + 0), [
    0,
    2,
    2,
    0,
    -2,
    2,
    -3,
  ]);
});

Deno.test("quantizeInteger() equals the reference to the last bit, ragged sizes included", async () => {
  for (const [rows, columns] of [[1, 1], [3, 7], [16, 64], [5, 130]] as const) {
    const data = randomNumbers(rows * columns, rows * columns);
    for (
      const [type, groupSize] of [["int8", undefined], ["int8", 32], ["int4", 64], [
        "int4",
        32,
      ]] as const
    ) {
      const q = quantizeInteger(device, data, [rows, columns], { type, groupSize });
      const wanted = reference(data, columns, type, groupSize ?? columns);
      assertEquals([...await q.dequantize().read()], wanted);
    }
  }
});

Deno.test("quantizeInteger() keeps zero and rows of zeros, and a range on one side", async () => {
  const data = Float32Array.from([0, 0, 0, 0, 1, 2, 0, 3, -5, -1, 0, -2]);
  for (const type of ["int8", "int4"] as const) {
    const q = quantizeInteger(device, data, [3, 4], { type });
    const back = await q.dequantize().read();
    assertEquals([0, 1, 2, 3, 6, 10].map((i) => back[i] + 0), [0, 0, 0, 0, 0, 0]);
    back.forEach((value, i) => assert(Math.abs(value - data[i]) <= 5 / 15));
  }
});

Deno.test("a product with integers and its gradient are those of the decoded weight", async () => {
  const [m, n, k] = [5, 12, 40];
  const data = randomNumbers(n * k, 3);
  for (const type of ["int8", "int4"] as const) {
    const w = quantizeInteger(device, data, [n, k], { type, groupSize: 16 });
    const dense = Array.from(await w.dequantize().read());
    await checkOp(
      [{ data: randomNumbers(m * k, 4), shape: [m, k] }],
      (x) => w.multiply(x),
      (x) => matmulRef(x, dense, { m, n, k, transposeB: true }),
    );
  }
});

Deno.test("integers count their bytes", () => {
  const data = randomNumbers(64 * 128, 1);
  assertEquals(quantizeInteger(device, data, [64, 128], { type: "int8" }).bytes, 64 * 128 + 4 * 64);
  assertEquals(
    quantizeInteger(device, data, [64, 128], { type: "int4" }).bytes,
    64 * 64 + 4.5 * 128,
  );
});

Deno.test("quantizeInteger() says what it cannot quantize", () => {
  const data = randomNumbers(16, 1);
  const options = { type: "int8" } as const;
  assertThrows(() => quantizeInteger(device, data, [4, 5], options), RangeError, "16 numbers");
  assertThrows(
    () => quantizeInteger(device, data, [4, 4], { type: "int4", groupSize: 0 }),
    RangeError,
    "groups of 0",
  );
  data[6] = NaN;
  assertThrows(
    () => quantizeInteger(device, data, [4, 4], options),
    RangeError,
    "element 6 is NaN",
  );
});
