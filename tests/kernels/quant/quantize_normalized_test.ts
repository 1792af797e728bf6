import { tensor } from "../../../core/tensor.ts";
import { rmsNorm } from "../../../kernels/norm/rms_norm.ts";
import { rmsNormRef } from "../../../kernels/norm/rms_norm_ref.ts";
import { quantizeNormalized } from "../../../kernels/quant/quantize_normalized.ts";
import { type ActivationScheme, quantizeRows } from "../../../kernels/quant/quantize_rows.ts";
import { quantizeRowsRef } from "../../../kernels/quant/quantize_rows_ref.ts";
import { onBoth } from "../../as_gpu.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const SCHEMES: readonly ActivationScheme[] = [
  { kind: "dynamic" },
  { kind: "static", scale: 0.021, zero: 0 },
  { kind: "static", scale: 0.017, zero: -45 },
  { kind: "static", scale: 0.05, zero: 0, least: -128 },
];

Deno.test("quantizeNormalized() is quantizeRows() of rmsNorm() to the last bit, in one dispatch on a GPU", () =>
  onBoth(async () => {
    const sizes = [[1, 4], [3, 7], [1, 64], [5, 100], [8, 576], [2, 1536], [1, 4100], [1, 16_400]];
    for (const [rows, columns] of sizes) {
      const numbers = randomNumbers(rows * columns, columns);
      // A row of zeros, and rows with what is no number.
      if (rows > 2) {
        numbers.fill(0, columns, 2 * columns);
        numbers[2 * columns + 1] = rows === 5 ? NaN : Infinity;
      }
      const x = tensor(device, numbers, [rows, columns]);
      const gain = tensor(device, randomNumbers(columns, 2), [columns]);
      for (const scheme of SCHEMES) {
        const what = `${rows}x${columns} ${JSON.stringify(scheme)}`;
        device.flush();
        const before = device.counters.dispatches;
        const found = quantizeNormalized(x, gain, 1e-5, scheme);
        device.flush();
        if (device.adapter.type === "gpu") {
          // Those whose rows are no words, or too long for registers, are normalized first.
          const wanted = columns === 7 || columns === 16_400 ? 2 : 1;
          assertEquals(device.counters.dispatches - before, wanted, what);
        }
        const apart = quantizeRows(rmsNorm(x, gain, 1e-5), scheme);
        assertEquals(found.shape, apart.shape);
        assertEquals(found.zero, apart.zero);
        assertEquals(await found.codes.read(), await apart.codes.read(), what);
        const bits = async (scales: typeof found.scales) =>
          new Uint32Array((await scales.read()).slice().buffer);
        assertEquals(await bits(found.scales), await bits(apart.scales), what);
      }
    }
  }));

Deno.test("quantizeNormalized() is the references of its two halves", () =>
  onBoth(async () => {
    const [rows, columns] = [7, 192];
    const numbers = randomNumbers(rows * columns, 3);
    const gains = randomNumbers(columns, 4);
    const normed = rmsNormRef(numbers, gains, rows, columns, 1e-6);
    const x = tensor(device, numbers, [rows, columns]);
    for (const scheme of SCHEMES) {
      const wanted = quantizeRowsRef(normed, columns, scheme);
      const found = quantizeNormalized(x, tensor(device, gains), 1e-6, scheme);
      assertRelativeError(await found.scales.read(), wanted.scales, 1e-6);
      const codes = new Int8Array((await found.codes.read()).slice().buffer);
      const apart = codes.map((code, i) => Math.abs(code - wanted.codes[i]));
      // One apart where a number lies within rounding of half a step.
      assert(Math.max(...apart) <= 1);
      assert(apart.reduce((sum, d) => sum + d) <= codes.length / 500);
    }
  }));

Deno.test("quantizeNormalized() says what makes no sense", () => {
  const x = tensor(device, new Float32Array(8), [2, 4]);
  const gain = tensor(device, new Float32Array(3));
  const run = (own: typeof gain, scheme: ActivationScheme) => () =>
    quantizeNormalized(x, own, 1e-5, scheme);
  assertThrows(run(gain, SCHEMES[0]), RangeError, "gain");
  const wrong = { kind: "static", scale: 0, zero: 0 } as const;
  assertThrows(run(tensor(device, new Float32Array(4)), wrong), RangeError, "a scale of 0");
});
