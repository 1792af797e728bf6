import {
  affineParameters,
  type AffineScheme,
  dequantizeAffine,
  quantizeAffine,
} from "../../../kernels/quant/affine.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { Histogram } from "../../../train/quant/histogram.ts";
import { createObserver, type ObserverOptions } from "../../../train/quant/observers.ts";
import { assert, assertAllClose, assertEquals, assertThrows } from "../../assert.ts";
import { randomNumbers } from "../../device.ts";

const GOLDEN = new URL("../../golden/torch_quant.safetensors", import.meta.url).pathname;
const AFFINE: AffineScheme = { bits: 8, kind: "asymmetric" };
const FULL: AffineScheme = { bits: 8, kind: "symmetric-full" };
const SYMMETRIC: AffineScheme = { bits: 8, kind: "symmetric" };

function parametersBy(options: ObserverOptions, scheme: AffineScheme, numbers: Float32Array) {
  const observer = createObserver(options, scheme);
  observer.observe(numbers);
  return affineParameters(observer.range(), scheme);
}

Deno.test("observers give the scales and zero points of PyTorch's", async () => {
  using file = await SafetensorsFile.open(GOLDEN);
  const x = await file.readFloats("x");
  const compare = async (name: string, found: { scale: number; zero: number }[]) => {
    const scales = await file.readFloats(`${name}.scale`);
    const zeros = new Int32Array((await file.read(`${name}.zero_point`)).buffer);
    assertAllClose(found.map(({ scale }) => scale), scales, { relative: 1e-6, absolute: 0 }, name);
    assertEquals(found.map(({ zero }) => zero), Array.from(zeros), name);
  };
  const minMax = { kind: "min-max" } as const;
  await compare("minmax_affine_u8", [parametersBy(minMax, AFFINE, x)]);
  await compare("minmax_symmetric_s8", [parametersBy(minMax, FULL, x)]);
  await compare("histogram_affine_u8", [parametersBy({ kind: "histogram" }, AFFINE, x)]);
  const rows = Array.from({ length: 64 }, (_, i) => x.subarray(96 * i, 96 * (i + 1)));
  await compare("channel_affine_u8", rows.map((row) => parametersBy(minMax, AFFINE, row)));
  await compare("channel_symmetric_s8", rows.map((row) => parametersBy(minMax, FULL, row)));
});

Deno.test("a moving average follows by its momentum", () => {
  const observer = createObserver({ kind: "moving-average", momentum: 0.25 }, AFFINE);
  observer.observe(new Float32Array([-1, 1]));
  observer.observe(new Float32Array([-3, 5]));
  assertEquals(observer.range(), { low: -1.5, high: 2 });
});

/** 10,000 normal numbers and one outlier. */
function withOutlier(): Float32Array {
  const numbers = randomNumbers(10_001, 3);
  numbers[77] = 60;
  return numbers;
}

Deno.test("an outlier stretches min-max; percentile, mse and entropy clip it", () => {
  const numbers = withOutlier();
  const scheme: AffineScheme = { bits: 4, kind: "symmetric" };
  const errorBy = (options: ObserverOptions) => {
    const parameters = parametersBy(options, scheme, numbers);
    const back = dequantizeAffine(quantizeAffine(numbers, parameters, scheme), parameters);
    return back.reduce((sum, y, i) => sum + (i === 77 ? 0 : (y - numbers[i]) ** 2), 0) / 10_000;
  };
  const widest = errorBy({ kind: "min-max" });
  for (const kind of ["percentile", "mse", "entropy"] as const) {
    assert(errorBy({ kind }) < 0.2 * widest, `${kind}: ${errorBy({ kind })} of ${widest}`);
  }
});

Deno.test("a percentile leaves out its share, on both sides of an asymmetric range", () => {
  const numbers = Float32Array.from({ length: 10_000 }, (_, i) => i / 100);
  const observer = createObserver({ kind: "percentile", percentile: 99 }, AFFINE);
  observer.observe(numbers);
  const { low, high } = observer.range();
  assert(Math.abs(low - 0.5) < 0.05 && Math.abs(high - 99.5) < 0.05, `${low} to ${high}`);
  const symmetric = createObserver({ kind: "percentile", percentile: 99 }, SYMMETRIC);
  symmetric.observe(numbers);
  assert(Math.abs(symmetric.range().high - 99) < 0.05);
});

Deno.test("a histogram in many batches is that of one", () => {
  const numbers = withOutlier();
  const whole = new Histogram();
  whole.add(numbers);
  const parts = new Histogram();
  for (let i = 0; i < numbers.length; i += 500) parts.add(numbers.subarray(i, i + 500));
  assertEquals([...parts.bins()], [...whole.bins()]);
  assertEquals(parts.total, 10_001);
});

Deno.test("the list of the tutorials in INT8: absmax / 127 loses little, (max − min) / 255 overflows", () => {
  const numbers = [-0.5, 1.2, -0.8, 2, 0.3];
  const parameters = affineParameters({ low: -0.8, high: 2 }, SYMMETRIC);
  const codes = quantizeAffine(numbers, parameters, SYMMETRIC);
  assertEquals([...codes], [-32, 76, -51, 127, 19]);
  const wrong = { scale: Math.fround(2.8 / 255), zero: 0 };
  const back = dequantizeAffine(quantizeAffine(numbers, wrong, SYMMETRIC), wrong);
  assert(Math.abs(back[3] - 2) > 0.5, "2 saturates at 127 · 2.8 / 255 = 1.39");
});

Deno.test("observers refuse what makes no sense", () => {
  const observer = createObserver({ kind: "mse" }, SYMMETRIC);
  assertThrows(() => observer.range(), RangeError, "nothing was observed");
  assertThrows(() => observer.observe(new Float32Array([1, NaN])), RangeError, "element 1 is NaN");
  assertThrows(
    () => createObserver({ kind: "percentile", percentile: 0 }, SYMMETRIC),
    RangeError,
    "percentile 0",
  );
  assertThrows(
    () => createObserver({ kind: "max" } as unknown as ObserverOptions, SYMMETRIC),
    RangeError,
    'Cannot observe by "max": wanted "min-max"',
  );
  assertThrows(
    () =>
      affineParameters({ low: 0, high: 1 }, { bits: 8, kind: "full" } as unknown as AffineScheme),
    RangeError,
    'a range that is "full": wanted "symmetric"',
  );
  assertThrows(
    () => affineParameters({ low: 0, high: Infinity }, SYMMETRIC),
    RangeError,
    "finite range",
  );
  assertThrows(
    () => affineParameters({ low: 0, high: 1 }, { bits: 1, kind: "symmetric" }),
    RangeError,
    "1 bits",
  );
});

Deno.test("numbers that are all the same, or all zero, have a range", () => {
  for (const kind of ["min-max", "percentile", "mse", "entropy", "histogram"] as const) {
    for (const value of [0, 3, -2]) {
      const numbers = new Float32Array(50).fill(value);
      const parameters = parametersBy({ kind }, SYMMETRIC, numbers);
      const back = dequantizeAffine(quantizeAffine(numbers, parameters, SYMMETRIC), parameters);
      assert(Math.abs(back[0] - value) <= Math.abs(value) / 250, `${kind} of ${value}: ${back[0]}`);
    }
  }
});
