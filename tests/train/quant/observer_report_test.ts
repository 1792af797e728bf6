import { affineParameters } from "../../../kernels/quant/affine.ts";
import { roundHalfEven } from "../../../kernels/quant/rounding.ts";
import { randomModel } from "../../../train/models/load.ts";
import { calibrateActivations } from "../../../train/quant/activation_ranges.ts";
import { calibrationWindows } from "../../../train/quant/calibration.ts";
import { eachInput, inputStatistics } from "../../../train/quant/input_statistics.ts";
import { observerReport, REPORTED } from "../../../train/quant/observer_report.ts";
import { createObserver } from "../../../train/quant/observers.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";

const GPT2 = {
  "model_type": "gpt2",
  "vocab_size": 96,
  "n_embd": 48,
  "n_layer": 2,
  "n_head": 4,
  "n_positions": 64,
};
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

Deno.test("observerReport() gives each observer's error, and the largest outlier", async () => {
  const model = randomModel(device, GPT2, { seed: 2 });
  const norm = new Map(model.modules()).get("transformer.h.1.ln_1")!;
  const [[, gain]] = [...norm.tensors()];
  const numbers = await gain.read() as Float32Array<ArrayBuffer>;
  numbers[13] *= 40;
  device.write(gain, numbers);
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
  assert(own.perChannel! > all.sqnr! && own.perChannel! > own.perToken!);
  // Calibration that clips is what the report says of it.
  const observer = { kind: "percentile", percentile: 99 } as const;
  const ranges = await calibrateActivations(model, { text: TEXT, observer });
  assertEquals(ranges.layers.get(own.layers[0])!.range, by.get("percentile 99")!.range);
  model.dispose();
});
