/**
 * What the choice of an observer costs: the error of each layer's input in 8 bits, by every observer, and by finer scales.
 *
 * @module
 */
import type { LanguageModel } from "../models/language_model.ts";
import type { ActivationKind } from "./activation_ranges.ts";
import { type CalibrationText, calibrationWindows, inputGroups } from "./calibration.ts";
import { inputErrors, type InputReport } from "./input_errors.ts";
import { eachInput, InputStatistics } from "./input_statistics.ts";

/** Bytes of a text's inputs that are in memory at a time: it is read once for each portion. */
const PORTION = 1 << 30;

/** Compares the observers on some inputs, which must fit into memory. */
async function reportOf(
  model: LanguageModel,
  text: CalibrationText,
  groups: readonly (readonly string[])[],
  columns: ReadonlyMap<string, number>,
  kind: ActivationKind,
): Promise<InputReport[]> {
  const inputs = new Map(groups.map((group) => {
    const statistics = new InputStatistics(group, columns.get(group[0])!);
    return [group[0], { statistics, windows: [] as Float32Array[] }];
  }));
  await eachInput(model, text, groups, ([path], numbers) => {
    const { statistics, windows } = inputs.get(path)!;
    statistics.add(numbers);
    windows.push(numbers);
  });
  return [...inputs.values()].map(({ statistics, windows }) => {
    const report = inputErrors(statistics, windows, kind);
    windows.length = 0;
    return report;
  });
}

/**
 * Compares the observers on what a model's linear layers read: with one range for all numbers, and with one for each channel. Names
 * the channels that are far larger than the others.
 *
 * @param model a model, quantized or not
 * @param text what it reads
 * @param kind whether ranges are symmetric
 * @returns a report for each input, in the order of the model
 * @throws {RangeError} if there is too little text, or an activation is not finite
 *
 * @example
 * ```ts
 * import { loadModel, observerReport, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails into wood");
 * for (const { layers, outlier, median, observers } of await observerReport(model, { ids })) {
 *   const [minMax] = observers;
 *   console.log(layers[0], minMax.sqnr, minMax.perChannel.sqnr, outlier.channel, outlier.range, median.range);
 * }
 * ```
 */
export async function observerReport(
  model: LanguageModel,
  text: CalibrationText,
  kind: ActivationKind = "symmetric",
): Promise<InputReport[]> {
  const tokens = calibrationWindows(model, text).reduce((sum, { length }) => sum + length, 0);
  const groups = await inputGroups(model);
  const columns = new Map([...model.linearLayers()].map(([path, { shape }]) => [path, shape[1]]));
  const report: InputReport[] = [];
  for (let from = 0; from < groups.length;) {
    let [to, bytes] = [from, 0];
    while (to < groups.length && (to === from || bytes < PORTION)) {
      bytes += 4 * tokens * columns.get(groups[to++][0])!;
    }
    report.push(...await reportOf(model, text, groups.slice(from, to), columns, kind));
    from = to;
  }
  return report;
}
