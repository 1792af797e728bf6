import { checkWindow, defaultWindow, windowsOf } from "../../../train/data/windows.ts";
import { loadModel } from "../../../train/models/load.ts";
import { awqLayers } from "../../../train/quant/awq.ts";
import { calibrateActivations } from "../../../train/quant/activation_ranges.ts";
import { calibrationWindows } from "../../../train/quant/calibration.ts";
import { gptqLayers } from "../../../train/quant/gptq_layers.ts";
import { observerReport } from "../../../train/quant/observer_report.ts";
import { splitLayers } from "../../../train/quant/outlier_layers.ts";
import { quantizeActivations } from "../../../train/quant/quantize_activations.ts";
import { rotateLayers } from "../../../train/quant/rotate_layers.ts";
import { assertEquals, assertRejects, assertThrows } from "../../assert.ts";
import { device } from "../../device.ts";

const BASE = new URL("../../../assets/base", import.meta.url).pathname;

Deno.test("defaultWindow() is a length for each use, and never more than the context", () => {
  const uses = ["read", "calibrate", "compare", "train"] as const;
  const of = (contextLength: number) => uses.map((use) => defaultWindow({ contextLength }, use));
  assertEquals(of(8192), [1024, 512, 256, 256]);
  assertEquals(of(300), [300, 300, 256, 256]);
  assertEquals(of(64), [64, 64, 64, 64]);
});

Deno.test("checkWindow() names what was found, what is wanted, and what to do", () => {
  const context = { contextLength: 256 };
  for (const window of [2, 17, 256]) checkWindow(context, window, "read");
  for (const window of [257, 1, 0, -2, 2.5, NaN, Infinity]) {
    assertThrows(
      () => checkWindow(context, window, "read"),
      RangeError,
      `Cannot read in windows of ${window} tokens: wanted a whole number from 2 to 256, the model's context; choose`,
    );
  }
});

Deno.test("windowsOf() gives each token of a window the next one as its label", () => {
  const windows = windowsOf([5, 6, 7, 8, 9], 3);
  assertEquals(windows.map(({ ids }) => [...ids]), [[5, 6, 7], [8, 9]]);
  assertEquals(windows.map(({ labels }) => [...labels]), [[6, 7, -100], [9, -100]]);
  // A single token has nothing to predict.
  assertEquals(windowsOf([5, 6, 7, 8], 3).length, 1);
});

Deno.test("the embedded model's context is as long as the rows it was trained on", async () => {
  const model = await loadModel(device, BASE, { weights: "f32" });
  assertEquals(model.config.contextLength, 256);
  model.dispose();
});

Deno.test("whatever is calibrated refuses windows beyond the context", async () => {
  const model = await loadModel(device, BASE, { weights: "f32" });
  const ids = Int32Array.from({ length: 600 }, (_, i) => i);
  const text = { ids, window: 300 };
  const wanted = "Cannot calibrate in windows of 300 tokens: wanted a whole number from 2 to 256";
  const observer = { kind: "min-max" } as const;
  for (
    const calibrate of [
      () => gptqLayers(model, { text }),
      () => awqLayers(model, { text }),
      () => splitLayers(model, { text }),
      () => rotateLayers(model, { text }),
      () => quantizeActivations(model, { activations: "static", calibration: text }),
      () => calibrateActivations(model, { text, observer }),
      () => observerReport(model, text),
    ]
  ) await assertRejects(calibrate as () => Promise<unknown>, RangeError, wanted);
  const lengths = (window?: number) =>
    calibrationWindows(model, { ids, window }).map(({ length }) => length);
  assertEquals([lengths(), lengths(200)], [[256, 256], [200, 200, 200]]);
  // A shorter text is one window.
  assertEquals(calibrationWindows(model, { ids: ids.subarray(0, 9) }).length, 1);
  model.dispose();
});
