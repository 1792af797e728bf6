/**
 * Looking at the inputs of linear layers while a model reads text.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { checkWindow, defaultWindow } from "../data/windows.ts";
import type { LanguageModel } from "../models/language_model.ts";

/** The text that a model is calibrated on. */
export interface CalibrationText {
  /** Its tokens, at least 2. */
  readonly ids: ArrayLike<number>;
  /** Tokens that are read at a time, at most the model's context; by default 512, or the context if that is less. */
  readonly window?: number;
  /** Windows that are read at most; all by default. */
  readonly windows?: number;
}

/** Told of an input: f32 [..., inFeatures], only valid during the call. */
export type InputWatcher = (paths: readonly string[], x: Tensor) => void;

/**
 * The text's windows, whole ones only, but at least one.
 *
 * @throws {RangeError} if there are fewer than 2 tokens, the windows do not fit the model's context, or an id is beyond its vocabulary
 */
export function calibrationWindows(
  model: LanguageModel,
  {
    ids,
    window = defaultWindow(model.config, "calibrate"),
    windows: most = Infinity,
  }: CalibrationText,
): Int32Array<ArrayBuffer>[] {
  const { vocabSize } = model.config;
  if (ids.length < 2) {
    throw new RangeError(
      `Cannot calibrate on ${ids.length} tokens: wanted at least 2, and better thousands; ` +
        "pass a text like those that the model will read",
    );
  }
  checkWindow(model.config, window, "calibrate");
  const all = Int32Array.from(ids);
  const wrong = all.findIndex((id) => id < 0 || id >= vocabSize);
  if (wrong >= 0) {
    throw new RangeError(
      `Cannot calibrate: token ${wrong + 1} has the id ${
        all[wrong]
      }, but the model's vocabulary has ${vocabSize}; encode the text with the model's own tokenizer`,
    );
  }
  const length = Math.min(window, all.length);
  const count = Math.min(most, Math.floor(all.length / length));
  return Array.from({ length: count }, (_, i) => all.slice(i * length, (i + 1) * length));
}

/** Runs windows through a model without gradients; `body` is told which layers read each input, one call for each input. */
export async function watchInputs(
  model: LanguageModel,
  windows: readonly Int32Array<ArrayBuffer>[],
  paths: ReadonlySet<string>,
  watch: InputWatcher,
): Promise<void> {
  const { device } = model;
  const layers = [...model.linearLayers()].filter(([path]) => paths.has(path));
  for (const ids of windows) {
    device.scope(() =>
      noGrad(() => {
        const inputs = new Map<Tensor, string[]>();
        for (const [path, layer] of layers) {
          layer.watcher = (x) => {
            const readers = inputs.get(x);
            if (readers) readers.push(path);
            else inputs.set(device.keep(x), [path]);
          };
        }
        try {
          const places = tensor(device, new Int32Array(1));
          model.forward(tensor(device, ids, [1, ids.length]), { places });
        } finally {
          for (const [, layer] of layers) layer.watcher = null;
        }
        for (const [x, readers] of inputs) {
          watch(readers, x);
          x.dispose();
        }
      })
    );
    // One window at a time is in memory.
    await device.finish();
  }
}

/** Layers that read the same input, in the order in which the model runs them. */
export async function inputGroups(model: LanguageModel): Promise<string[][]> {
  const groups: string[][] = [];
  const all = new Set([...model.linearLayers()].map(([path]) => path));
  await watchInputs(model, [Int32Array.of(0)], all, (paths) => groups.push([...paths]));
  return groups;
}
