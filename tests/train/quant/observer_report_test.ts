import { affineParameters, type Range } from "../../../kernels/quant/affine.ts";
import { roundHalfEven } from "../../../kernels/quant/rounding.ts";
import { randomModel } from "../../../train/models/load.ts";
import { calibrateActivations } from "../../../train/quant/activation_ranges.ts";
import { calibrationWindows } from "../../../train/quant/calibration.ts";
import {
  eachInput,
  InputStatistics,
  inputStatistics,
} from "../../../train/quant/input_statistics.ts";
import {
  CHANNEL_BINS,
  inputErrors,
  medianChannel,
  REPORTED,
  timesMedian,
} from "../../../train/quant/input_errors.ts";
import { observerReport } from "../../../train/quant/observer_report.ts";
import { createObserver } from "../../../train/quant/observers.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { enlarge, GPT2 } from "../../tiny_models.ts";

const IDS = Int32Array.from({ length: 100 }, (_, i) => (7 * i * i + i) % 96);
const TEXT = { ids: IDS, window: 32 };

Deno.test("statistics choose the ranges that observers choose which see all numbers", async () => {
  const model = randomModel(device, GPT2, { seed: 1 });
  const statistics = await inputStatistics(model, TEXT);
  assertEquals(statistics.map(({ paths }) => paths.length), [1, 1, 1, 1, 1, 1, 1, 1]);
  const groups = statistics.map(({ paths }) => paths);
  for (const kind of ["symmetric", "asymmetric"] as const) {
    const scheme = { bits: 8, kind };
    for (const observer of REPORTED.values()) {
      const own = new Map(groups.map(([path]) => [path, createObserver(observer, scheme)]));
      await eachInput(model, TEXT, groups, ([path], numbers) => own.get(path)!.observe(numbers));
      for (const one of statistics) {
        assertEquals(one.range(observer, scheme), own.get(one.paths[0])!.range());
      }
    }
  }
  assertEquals(calibrationWindows(model, TEXT).length, 3);
  assertEquals(statistics[0].histogram.total, 96 * 48);
  model.dispose();
});

Deno.test("the median channel of an even number is the lower of the two in the middle", () => {
  assertEquals([[3], [9, 1], [2, 9, 1], [4, 9, 1, 5]].map(medianChannel), [0, 1, 0, 0]);
  assertEquals([[7, 7, 7], [0, 5, 0, 5], [0, 0, 0, 5]].map(medianChannel), [1, 0, 1]);
  assertEquals([timesMedian(6, 2), timesMedian(6, 0), timesMedian(0, 0)], [3, Infinity, 0]);
});

Deno.test("observerReport() gives each observer's error, and the largest outlier", async () => {
  const model = randomModel(device, GPT2, { seed: 2 });
  await enlarge(model, "transformer.h.1.ln_1", 13, 40);
  const report = await observerReport(model, TEXT);
  const own = report.find(({ layers }) => layers[0] === "transformer.h.1.attn.c_attn")!;
  assertEquals(own.outlier.channel, 13);
  assert(own.outlier.timesMedian > 15);
  const others = report.filter((one) => one !== own);
  assert(others.every(({ outlier }) => outlier.timesMedian < own.outlier.timesMedian / 2));
  assertEquals(own.observers.map(({ observer }) => observer), [...REPORTED.keys()]);

  // The same, by hand.
  const seen: number[] = [];
  await eachInput(model, TEXT, [own.layers], (_, x) => {
    seen.push(...x);
  });
  const energy = seen.reduce((sum, x) => sum + x * x, 0);
  for (const { range, clipped, meanSquaredError, sqnr } of own.observers) {
    const { scale } = affineParameters(range, { bits: 8, kind: "symmetric" });
    const errors = seen.map((x) => {
      const q = Math.max(-127, Math.min(127, roundHalfEven(x / scale)));
      return (x - q * scale) ** 2;
    });
    const noise = errors.reduce((a, b) => a + b);
    assertRelativeError([meanSquaredError], [noise / seen.length], 1e-9);
    assertRelativeError([sqnr!], [10 * Math.log10(energy / noise)], 1e-9);
    const outside = seen.filter((x) => x < range.low || x > range.high).length;
    assertEquals(clipped, outside / seen.length);
  }
  const by = new Map(own.observers.map((one) => [one.observer, one]));
  const all = by.get("min-max")!;
  assertEquals(all.clipped, 0);
  assert(by.get("percentile 99")!.clipped > 0.005);
  // The search weighs its candidates by a histogram, whose bins are narrow but not points.
  assert(by.get("mse")!.meanSquaredError <= 1.02 * all.meanSquaredError);
  // One scale must cover the outlier; a token's own mostly too; a channel's own need not.
  assert(all.perChannel.sqnr! > all.sqnr! + 10 && all.perChannel.sqnr! > own.perToken!);
  // Calibration that clips is what the report says of it.
  const observer = { kind: "percentile", percentile: 99 } as const;
  const ranges = await calibrateActivations(model, { text: TEXT, observer });
  assertEquals(ranges.layers.get(own.layers[0])!.range, by.get("percentile 99")!.range);
  model.dispose();
});

Deno.test("inputErrors() by hand: ranges of channels, their errors in float64, and outliers by name", () => {
  const [tokens, width] = [200, 9];
  const windows = [1, 2].map((seed) => {
    const numbers = randomNumbers(tokens * width, seed);
    // Channel 4 is large on one side, channel 7 on both, and channel 2 is nothing.
    numbers.forEach((x, i) => {
      const channel = i % width;
      if (channel === 4) numbers[i] = 20 + x;
      if (channel === 7) numbers[i] = 50 * x;
      if (channel === 2) numbers[i] = 0;
    });
    return numbers;
  });
  const all = windows.flatMap((numbers) => [...numbers]);
  const channel = (c: number) => all.filter((_, i) => i % width === c);
  const energy = all.reduce((sum, x) => sum + x * x, 0);
  for (const kind of ["symmetric", "asymmetric"] as const) {
    const statistics = new InputStatistics(["a", "b"], width);
    for (const numbers of windows) statistics.add(numbers);
    const report = inputErrors(statistics, windows, kind);
    assertEquals(report.layers, ["a", "b"]);
    const scheme = {
      bits: 8,
      kind,
      levels: kind === "symmetric" ? "restricted" : "signed",
    } as const;
    for (const { observer, perChannel } of report.observers) {
      let [noise, outside] = [0, 0];
      for (let c = 0; c < width; c++) {
        const own = new InputStatistics(["a"], 1, CHANNEL_BINS);
        for (const numbers of windows) own.add(numbers.filter((_, i) => i % width === c));
        const range = own.range(REPORTED.get(observer)!, scheme);
        const { scale, zero } = affineParameters(range, scheme);
        const least = kind === "symmetric" ? -127 : -128;
        for (const x of channel(c)) {
          const q = Math.max(least, Math.min(127, roundHalfEven(x / scale) + zero));
          noise += (x - (q - zero) * scale) ** 2;
          if (x < range.low || x > range.high) outside++;
        }
      }
      assertRelativeError([perChannel.meanSquaredError], [noise / all.length], 1e-9);
      assertRelativeError([perChannel.sqnr!], [10 * Math.log10(energy / noise)], 1e-9);
      assertEquals(perChannel.clipped, outside / all.length);
    }
    const { outlier, outlying, outliers, median } = report;
    assertEquals([outlying, ...outliers.map((own) => own.channel)], [2, 7, 4]);
    assertEquals(outlier, outliers[0]);
    for (const { channel: c, range, magnitude } of [...outliers, median]) {
      const numbers = channel(c);
      assertEquals([range.low, range.high], [Math.min(...numbers), Math.max(...numbers)]);
      assertEquals(magnitude, Math.max(-range.low, range.high));
    }
    assertEquals(outlier.timesMedian, outlier.magnitude / median.magnitude);
    const larger = Array.from({ length: width }, (_, c) => Math.max(...channel(c).map(Math.abs)))
      .filter((magnitude) => magnitude > median.magnitude);
    assertEquals(larger.length, 4);
  }
});

Deno.test("an observer's range of a channel is that of its numbers", () => {
  const statistics = new InputStatistics(["a"], 1, CHANNEL_BINS);
  const numbers = randomNumbers(4001, 3);
  statistics.add(numbers);
  const sorted = numbers.map(Math.abs).toSorted();
  const scheme = { bits: 8, kind: "symmetric" } as const;
  const width = statistics.histogram.width;
  for (const percentile of [99, 99.9, 99.99]) {
    const { low, high } = statistics.range({ kind: "percentile", percentile }, scheme);
    // So many may be outside, to a bin of the histogram.
    const quantile = sorted[Math.ceil(4001 * percentile / 100) - 1];
    assert(Math.abs(Math.max(-low, high) - quantile) <= width, `${percentile}`);
  }
  const error = (range: Range) => {
    const { scale } = affineParameters(range, scheme);
    return numbers.reduce((sum, x) => {
      const q = Math.max(-127, Math.min(127, roundHalfEven(x / scale)));
      return sum + (x - q * scale) ** 2;
    }, 0);
  };
  const of = (kind: "mse" | "entropy" | "min-max") => statistics.range({ kind }, scheme);
  assert(error(of("mse")) <= 1.05 * error(of("min-max")));
  // It weighs what is kept, not errors, and cuts much where there are few numbers.
  const { low, high } = of("entropy");
  assert(low >= of("min-max").low && high <= of("min-max").high && high > sorted[2000]);
});
