/**
 * Several ways to put one model into few bits, side by side on one text.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { tensor } from "../../core/tensor.ts";
import { IGNORED, type Sequence } from "../data/dataset.ts";
import { defaultWindow, windowsOf } from "../data/windows.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { type LayerErrors, layerErrors } from "../quant/layer_errors.ts";
import { checkPlain } from "../quant/weight_only.ts";
import { evaluateAccuracy } from "./accuracy.ts";
import { divergenceOf } from "./divergence.ts";
import { applyScheme, checkNeeds, type SchemeNeeds } from "./named_schemes.ts";
import { lossChangeOf, rightnessOf, type WindowLoss } from "./paired.ts";
import { checkWindows } from "./perplexity.ts";
import { checkIds, score } from "./score.ts";

/** How `compareSchemes` goes about it. */
export interface CompareOptions extends SchemeNeeds {
  /** The schemes, in the order of the table: some of `SCHEME_NAMES`, or such as `parseScheme` takes, "int4-g32". */
  readonly schemes: readonly string[];
  /** Tokens of a window; 256 by default, or the model's context if that is less. */
  readonly window?: number;
  /** Examples, as `tokenizeExamples` gives them, that are answered too. */
  readonly examples?: readonly Sequence[];
  /** Told of each result as it comes. */
  readonly onResult?: (result: SchemeResult) => void;
}

/** What a scheme costs. */
export interface SchemeResult extends LayerErrors {
  /** Which. */
  readonly scheme: string;
  /** Of the text. */
  readonly perplexity: number;
  /** Its logarithm, in nats for each token. */
  readonly loss: number;
  /** The mean difference of the loss from that in 32 bits, over windows, and the half width of its 95 % interval. */
  readonly lossChange: number;
  /** See `lossChange`; NaN with a single window. */
  readonly lossChangeInterval: number;
  /** Bytes of the whole model, scales and zero points included. */
  readonly bytes: number;
  /** Bytes that the device holds while the text is evaluated: the model, and what it computes on the way. */
  readonly memory: number;
  /** Bits for each weight of the linear layers, scales and zero points included. */
  readonly bitsPerWeight: number;
  /** The share of places at which the likeliest token is the one that follows in the text. */
  readonly accuracy: number;
  /** How much less that is than in 32 bits: 0.01 where one place in a hundred is lost. Below 0 where more are right. */
  readonly accuracyDrop: number;
  /** The half width of its 95 % interval, from what becomes of each place. */
  readonly accuracyDropInterval: number;
  /** The share of `examples` that are answered exactly; null without them. */
  readonly answered: number | null;
  /** How much less that is than in 32 bits; null without `examples`. */
  readonly answeredDrop: number | null;
  /** The half width of its 95 % interval, from what becomes of each example. */
  readonly answeredDropInterval: number | null;
  /** The share of places at which the likeliest token is still that of 32 bits. */
  readonly agreement: number;
  /** The mean Kullback-Leibler divergence of the predictions from those in 32 bits, in nats. */
  readonly divergence: number;
  /** Tokens of the text for each second, evaluated; without the first batch, which compiles kernels, where there are more. */
  readonly tokensPerSecond: number;
}

/** Places whose whole predictions are compared: each is as long as the vocabulary. */
const PLACES = 64;

/** What a model says of the text. */
interface Reading {
  readonly windows: readonly WindowLoss[];
  readonly predicted: Int32Array;
  /** For each predicted token whether it is the text's. */
  readonly isCorrect: readonly boolean[];
  /** For each of the examples whether it is answered exactly, if there are any. */
  readonly isAnswered: readonly boolean[] | null;
  readonly logits: Float32Array;
  readonly tokensPerSecond: number;
  /** Bytes beside the model. */
  readonly computed: number;
}

/** A model's logits at some places spread over the windows, [places, vocabulary]. */
async function someLogits(
  model: LanguageModel,
  windows: readonly { readonly ids: Int32Array<ArrayBuffer> }[],
): Promise<Float32Array> {
  const { device } = model;
  const each = Math.max(1, Math.floor(PLACES / windows.length));
  const stride = Math.max(1, Math.floor(windows.length / PLACES));
  const parts: Float32Array[] = [];
  for (let i = 0; i < windows.length; i += stride) {
    const { ids } = windows[i];
    const own = Math.min(each, ids.length);
    const places = Int32Array.from(
      { length: own },
      (_, k) => Math.floor((k + 0.5) * ids.length / own),
    );
    using logits = device.scope(() =>
      noGrad(() =>
        device.keep(
          model.forward(tensor(device, ids, [1, ids.length]), { places: tensor(device, places) }),
        )
      )
    );
    parts.push(await logits.read() as Float32Array);
  }
  const all = new Float32Array(parts.reduce((sum, { length }) => sum + length, 0));
  let at = 0;
  for (const part of parts) {
    all.set(part, at);
    at += part.length;
  }
  return all;
}

async function read(
  model: LanguageModel,
  ids: Int32Array,
  window: number,
  examples?: readonly Sequence[],
): Promise<Reading> {
  const windows = windowsOf(ids, window);
  const { device } = model;
  const held = device.memory.live;
  device.pool.resetPeak();
  let from = { tokens: 0, time: performance.now() };
  let tokensPerSecond = 0;
  const length = Math.min(window, ids.length);
  const { losses, predicted, starts } = await score(model, windows, {
    length,
    rows: Math.max(1, Math.min(windows.length, Math.floor(2048 / length))),
    predict: true,
    onProgress(tokens) {
      const time = performance.now();
      tokensPerSecond = 1000 * (tokens - from.tokens) / (time - from.time);
      if (from.tokens === 0) from = { tokens, time };
    },
  });
  const sums = windows.map(({ labels }, i) => ({
    loss: losses.subarray(starts[i], starts[i + 1]).reduce((sum, x) => sum + x, 0),
    labels: labels.reduce((sum, label) => sum + (label === IGNORED ? 0 : 1), 0),
  }));
  const logits = await someLogits(model, windows);
  const computed = device.memory.peak - held;
  const wanted = windows.flatMap(({ labels }) => [...labels].filter((id) => id !== IGNORED));
  const isCorrect = wanted.map((token, i) => token === predicted![i]);
  const isAnswered = examples ? (await evaluateAccuracy(model, examples)).isCorrect : null;
  const told = { predicted: predicted!, isCorrect, isAnswered, logits, tokensPerSecond, computed };
  return { windows: sums, ...told };
}

function sizeOf(model: LanguageModel): { bytes: number; bitsPerWeight: number } {
  let [size, weights] = [0, 0];
  for (const [, layer] of model.linearLayers()) {
    size += layer.weightBytes;
    weights += layer.shape[0] * layer.shape[1];
  }
  return { bytes: model.weightBytes, bitsPerWeight: 8 * size / weights };
}

/**
 * Measures a text with the model's linear layers in each of several schemes. The model is as before afterwards.
 *
 * @param model a model with plain weights
 * @param ids the text's tokens; differences between schemes are paired window by window, so some dozens of windows are wanted
 * @param options which schemes, what is calibrated on
 * @throws {RangeError} if there are too few tokens, to measure or to calibrate on, or no such scheme, or the policy does not fit the
 * model
 * @throws {TypeError} if a scheme that needs one has no calibration text, or there is no policy to follow, or weights are quantized
 *
 * @example
 * ```ts
 * import { compareSchemes, loadModel, openDevice } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = await loadModel(device, "assets/base");
 * const ids = model.tokenizer!.encode("a large wild cat with stripes; a tool for driving nails");
 * for (const { scheme, perplexity, bytes } of await compareSchemes(model, ids, { schemes: ["f32", "int8", "nf4"] })) {
 *   console.log(scheme, perplexity, bytes);
 * }
 * ```
 */
export async function compareSchemes(
  model: LanguageModel,
  ids: Int32Array,
  options: CompareOptions,
): Promise<SchemeResult[]> {
  const { window = defaultWindow(model.config, "compare"), schemes, examples, onResult } = options;
  checkWindows(model, ids.length, window);
  checkIds(model, ids, "the text");
  checkPlain(model, "compare schemes on");
  checkNeeds(model, schemes, options);
  const before = await read(model, ids, window, examples);
  const results: SchemeResult[] = [];
  for (const scheme of schemes) {
    const plain = new Map([...model.linearLayers()]);
    const applied = await applyScheme(model, scheme, options);
    try {
      const after = scheme === "f32" ? before : await read(model, ids, window, examples);
      const labels = after.windows.reduce((sum, own) => sum + own.labels, 0);
      const loss = after.windows.reduce((sum, own) => sum + own.loss, 0) / labels;
      const { mean, interval } = lossChangeOf(before.windows, after.windows);
      const right = rightnessOf(before.isCorrect, after.isCorrect);
      const answers = after.isAnswered && rightnessOf(before.isAnswered!, after.isAnswered);
      const same = after.predicted.filter((token, i) => token === before.predicted[i]).length;
      const result: SchemeResult = {
        scheme,
        perplexity: Math.exp(loss),
        loss,
        lossChange: mean,
        lossChangeInterval: interval,
        ...sizeOf(model),
        memory: model.weightBytes + after.computed,
        ...await layerErrors(model, plain),
        accuracy: right.share,
        accuracyDrop: right.drop,
        accuracyDropInterval: right.interval,
        answered: answers?.share ?? null,
        answeredDrop: answers?.drop ?? null,
        answeredDropInterval: answers?.interval ?? null,
        agreement: same / labels,
        divergence: divergenceOf(before.logits, after.logits, model.config.vocabSize),
        tokensPerSecond: after.tokensPerSecond,
      };
      results.push(result);
      onResult?.(result);
    } finally {
      applied.restore();
    }
  }
  return results;
}
