import { affineParameters, quantizeAffine } from "../../../kernels/quant/affine.ts";
import { explainOverflow, explainQuantization } from "../../../kernels/quant/explain.ts";
import { dequantizeFourBitRef, quantizeFourBitRef } from "../../../kernels/quant/four_bit_ref.ts";
import { assert, assertEquals, assertThrows } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";

const LIST = [-0.5, 1.2, -0.8, 2.0, 0.3];

const codesOf = (scheme: Parameters<typeof explainQuantization>[2]["scheme"]) =>
  explainQuantization(LIST, [1, 5], { scheme }).groups[0].numbers.map(({ code }) => code);

Deno.test("the worked example has the codes that one gets by hand", () => {
  // 127 / 2 = 63.5 steps to 1: −31.75, 76.2, −50.8, 127, 19.05.
  assertEquals(codesOf({ bits: 8, kind: "symmetric" }), [-32, 76, -51, 127, 19]);
  // 63.75 steps, a hair fewer in 32 bits: 2 is just below 127.5.
  assertEquals(codesOf({ bits: 8, kind: "symmetric-full" }), [-32, 76, -51, 127, 19]);
  // 255 / 2.8 = 91.07 steps, and the zero point 73.
  assertEquals(codesOf({ bits: 8, kind: "asymmetric" }), [27, 182, 0, 255, 100]);
  // 3.5 steps: −1.75, 4.2, −2.8, 7, 1.05.
  assertEquals(codesOf({ bits: 4, kind: "symmetric" }), [-2, 4, -3, 7, 1]);
  const scheme = { bits: 8, kind: "symmetric-full" } as const;
  // A scale of 1: 127.5 lies between 127 and 128, takes the even one, and meets the bound.
  const full = explainQuantization([127.5, -3], [1, 2], { scheme });
  const [{ divided, rounded, code }] = full.groups[0].numbers;
  assertEquals([full.saturated, divided, rounded, code], [1, 127.5, 128, 127]);
  const asymmetric = explainQuantization(LIST, [1, 5], {
    scheme: { bits: 8, kind: "asymmetric" },
  });
  assertEquals(asymmetric.groups[0].zero, 73);
  assert(asymmetric.groups[0].formula.endsWith("zero = 0 − round(min / scale) = 0 − (−73) = 73"));
  // Nothing but zeros.
  for (const kind of ["symmetric", "asymmetric"] as const) {
    const { groups: [zeros] } = explainQuantization([0, 0], [1, 2], { scheme: { bits: 8, kind } });
    assertEquals(zeros.numbers.map(({ decoded }) => decoded), [0, 0]);
    assert(
      zeros.formula.includes("= less than the least scale, 1.19209e−7; zero = 0"),
      zeros.formula,
    );
  }
});

Deno.test("what is explained is what is computed, in every group", () => {
  const values = randomNumbers(4 * 70, 1);
  for (const granularity of ["tensor", "channel", "group"] as const) {
    const scheme = { bits: 4, kind: "asymmetric" } as const;
    const { groups } = explainQuantization(values, [4, 70], { scheme, granularity, groupSize: 32 });
    assertEquals(groups.length, { tensor: 1, channel: 4, group: 12 }[granularity]);
    assertEquals(groups.reduce((sum, { numbers }) => sum + numbers.length, 0), values.length);
    for (const { numbers, min, max, zero } of groups) {
      const own = numbers.map(({ value }) => value);
      const parameters = affineParameters({ low: min, high: max }, scheme);
      assertEquals(
        Int32Array.from(numbers, ({ code }) => code),
        quantizeAffine(own, parameters, scheme),
      );
      for (const { value, rounded, code, decoded, error } of numbers) {
        assertEquals(code, Math.max(0, Math.min(15, rounded!)));
        assertEquals([decoded, error], [
          Math.fround((code - zero) * parameters.scale),
          decoded - value,
        ]);
      }
    }
  }
});

Deno.test("NF4 and FP4 are explained with bitsandbytes' codes", () => {
  const values = randomNumbers(3 * 64, 2);
  for (const type of ["nf4", "fp4"] as const) {
    const wanted = quantizeFourBitRef(values, type, 64);
    const decoded = dequantizeFourBitRef(wanted.packed, wanted.absmax, type, 64, values.length);
    const { groups } = explainQuantization(values, [3, 64], {
      scheme: type,
      granularity: "channel",
    });
    const numbers = groups.flatMap((own) => own.numbers);
    assertEquals(Float32Array.from(numbers, (own) => own.decoded), decoded);
    assertEquals(
      numbers.map(({ code }) => code),
      numbers.map((_, i) => wanted.packed[i >> 1] >> (i % 2 === 0 ? 4 : 0) & 15),
    );
  }
});

Deno.test("(max − min) / 255 as a symmetric scale overflows INT8", () => {
  const { numbers, overflows } = explainOverflow(LIST);
  assertEquals([overflows, numbers[3].rounded, numbers[3].wrapped], [1, 182, -74]);
  assert(numbers[3].decodedWrapped < 0 && numbers[3].decodedSaturated < 1.4);
  assertEquals(explainOverflow([-0.5, 0.1, 0.8]).numbers[2].rounded, 157);
  assertEquals(explainOverflow([-1, 0.3, 1]).overflows, 0);
});

Deno.test("explaining refuses what is no matrix, and what cannot be quantized", () => {
  const scheme = { bits: 8, kind: "symmetric" } as const;
  const explain = (values: number[], shape: [number, number], more = {}) => () =>
    explainQuantization(values, shape, { scheme, ...more });
  assertThrows(explain([], [0, 0]), RangeError, "at least one");
  assertThrows(explain([1, 2, 3], [2, 2]), RangeError, "with 3 numbers: wanted 4");
  assertThrows(explain([1, NaN], [1, 2]), RangeError, "row 0, column 1: it is NaN");
  assertThrows(explain([1], [1, 1], { granularity: "group" }), RangeError, "wanted groupSize");
  assertThrows(
    explain([1], [1, 1], { scheme: { bits: 9, kind: "symmetric" } }),
    RangeError,
    "9 bits",
  );
  assertThrows(() => explainOverflow([2, 2]), RangeError, "equal numbers");
  assertEquals(explain([0, 0], [1, 2])().largestError, 0);
  assertEquals(explain([0, 0], [1, 2], { scheme: "nf4" })().largestError, 0);
});
