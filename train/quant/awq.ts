/**
 * AWQ: channels that carry large activations are made larger before rounding, and smaller after. Lin et al. (arXiv 2306.00978).
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { type Tensor, tensor, viewOf } from "../../core/tensor.ts";
import { embedding } from "../../kernels/embedding/embedding.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { div, mul, sub } from "../../kernels/pointwise/arithmetic.ts";
import { type AffineScheme, levelsOf } from "../../kernels/quant/affine.ts";
import { fakeQuantize } from "../../kernels/quant/fake_quant.ts";
import { groupRanges, rangeGrid } from "../../kernels/quant/group_grid.ts";
import { sum } from "../../kernels/reduce/sum.ts";
import type { LanguageModel, Scaling } from "../models/language_model.ts";
import { type CalibrationText, calibrationWindows, watchInputs } from "./calibration.ts";
import { MovedScales } from "./channel_scales.ts";
import { denseWeight, GROUP_SIZE, quantizeLayers, ReplacedLayers } from "./weight_only.ts";

/** How AWQ goes about it. */
export interface AwqOptions {
  /** What the model reads: some thousand tokens, not of the text that it is tested on. */
  readonly text: CalibrationText;
  /** 4 by default. */
  readonly bits?: 4 | 3 | 2;
  /** Weights along a row that share a scale; 64 by default. */
  readonly groupSize?: number;
  /** Tokens on which outputs are compared; 128 by default. */
  readonly samples?: number;
  /** Told after each group of layers. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Candidates for the exponent r: 0, 1/20, …, 19/20. At 0 the activations do not matter. */
const EXPONENTS = 20;

/** Inputs of layers, on the host. */
interface Sample {
  /** f32 [tokens, channels]. */
  readonly numbers: Float32Array<ArrayBuffer>;
  readonly channels: number;
}

/** Some of the tokens that each first reader sees, spread over the text. */
async function samplesOf(
  model: LanguageModel,
  firsts: ReadonlySet<string>,
  text: CalibrationText,
  count: number,
): Promise<Map<string, Sample>> {
  const { device } = model;
  const windows = calibrationWindows(model, text);
  const each = Math.ceil(count / windows.length);
  const parts = new Map<string, Tensor[]>();
  await watchInputs(model, windows, firsts, (paths, x) => {
    const channels = x.shape.at(-1)!;
    const tokens = x.size / channels;
    const own = Math.min(each, tokens);
    const places = Int32Array.from({ length: own }, (_, i) => Math.floor((i + 0.5) * tokens / own));
    const taken = device.keep(embedding(viewOf(x, [tokens, channels]), tensor(device, places)));
    for (const path of paths) {
      if (!parts.has(path)) parts.set(path, []);
      // Layers that read the same share the tensor; it is freed below, once.
      parts.get(path)!.push(taken);
    }
  });
  const out = new Map<string, Sample>();
  const all = new Set<Tensor>();
  for (const [path, own] of parts) {
    const read = await Promise.all(own.map((t) => t.read() as Promise<Float32Array>));
    const channels = own[0].shape[1];
    const numbers = new Float32Array(Math.min(count, read.length * each) * channels);
    let at = 0;
    for (const part of read) {
      const room = part.subarray(0, numbers.length - at);
      numbers.set(room, at);
      at += room.length;
    }
    if (!numbers.every(Number.isFinite)) {
      throw new RangeError(
        `Cannot quantize "${path}" by AWQ: what it reads has NaN or infinity in it; ` +
          "a model that gives such activations is broken before it is quantized",
      );
    }
    out.set(path, { numbers: numbers.subarray(0, at), channels });
    for (const t of own) all.add(t);
  }
  for (const t of all) t.dispose();
  return out;
}

/** Mean magnitudes of the channels. */
function activity({ numbers, channels }: Sample): Float64Array {
  const out = new Float64Array(channels);
  for (let i = 0; i < numbers.length; i++) out[i % channels] += Math.abs(numbers[i]);
  return out.map((value) => value * channels / numbers.length);
}

/** Mean magnitudes of the channels of weights [rows, channels], each weight as a share of the largest in its group. */
function weightActivity(
  weights: readonly Float32Array[],
  channels: number,
  groupSize: number,
): Float64Array {
  const out = new Float64Array(channels);
  let rows = 0;
  for (const weight of weights) {
    for (let from = 0; from < weight.length; from += channels, rows++) {
      for (let start = 0; start < channels; start += groupSize) {
        const end = Math.min(start + groupSize, channels);
        let most = 0;
        for (let c = start; c < end; c++) most = Math.max(most, Math.abs(weight[from + c]));
        if (most === 0) continue;
        for (let c = start; c < end; c++) out[c] += Math.abs(weight[from + c]) / most;
      }
    }
  }
  return out.map((value) => value / rows);
}

/** Factors for an exponent, with the geometric mean of the largest and the least at 1. */
function factorsAt(
  r: number,
  x: Float64Array,
  w: Float64Array,
): Float32Array<ArrayBuffer> {
  const raw = x.map((value, c) => Math.max(value ** r / (w[c] ** (1 - r) + 1e-4), 1e-4));
  const [least, most] = [
    raw.reduce((a, b) => Math.min(a, b)),
    raw.reduce((a, b) => Math.max(a, b)),
  ];
  const middle = Math.sqrt(least * most);
  return Float32Array.from(raw, (value) => value / middle);
}

/** What layers are quantized to in the end, by `quantizeLayers`. */
interface Rounding {
  readonly bits: 4 | 3 | 2;
  readonly groupSize: number;
}

/** Weights as they are after rounding to integers and decoding: to try factors out on the device. */
function rounded(weight: Tensor, { bits, groupSize }: Rounding): Tensor {
  const scheme: AffineScheme = { bits, kind: "asymmetric" };
  const { scales, zeros } = rangeGrid(groupRanges(weight, groupSize), scheme);
  return fakeQuantize(weight, scales, zeros, { ...levelsOf(scheme), groupSize });
}

/** The factors, of all exponents and of none at all, with which the layers' outputs on the sample change least. */
async function search(
  replaced: ReplacedLayers,
  { readers }: Scaling,
  sample: Sample,
  rounding: Rounding,
): Promise<Float32Array<ArrayBuffer> | null> {
  const { channels } = sample;
  const dense = readers.map((path) => denseWeight(replaced.layer(path)));
  const { device } = dense[0].weight;
  const numbers = await Promise.all(dense.map(({ weight }) => weight.read()));
  const x = activity(sample);
  const w = weightActivity(numbers as Float32Array[], channels, rounding.groupSize);
  const candidates = Array.from({ length: EXPONENTS }, (_, i) => factorsAt(i / EXPONENTS, x, w));
  const tried = [new Float32Array(channels).fill(1), ...candidates];
  const errors: Promise<number>[] = [];
  for (const factors of tried) {
    const error = device.scope(() =>
      noGrad(() => {
        const inputs = tensor(device, sample.numbers, [sample.numbers.length / channels, channels]);
        const row = tensor(device, factors);
        return dense.map(({ weight }) => {
          const lost = sub(div(rounded(mul(weight, row), rounding), row), weight);
          const change = matmul(inputs, lost, { transposeB: true });
          return sum(mul(change, change));
        });
      })
    );
    errors.push(
      Promise.all(error.map((t) => t.item())).then((all) => {
        for (const t of error) t.dispose();
        return all.reduce((a, b) => a + b);
      }),
    );
  }
  const found = await Promise.all(errors);
  for (const { weight, own } of dense) if (own) weight.dispose();
  const best = found.indexOf(Math.min(...found));
  return best <= 0 ? null : tried[best];
}

/** A model that AWQ has been over. */
export interface AwqResult {
  /** Frees the plain weights. */
  commit(): void;
  /** Puts everything back. */
  restore(): void;
}

/**
 * Quantizes the linear layers of a model to integers by AWQ, in place. Factors go into the normalization or the layer before; layers
 * behind which nothing can take them are rounded as they are.
 *
 * @param model a model with plain weights
 * @param options the text, bits, groups
 * @throws {RangeError} if there is too little text, or an activation is not finite
 * @throws {TypeError} if the model is quantized already
 */
export async function awqLayers(model: LanguageModel, options: AwqOptions): Promise<AwqResult> {
  const { text, bits = 4, groupSize = GROUP_SIZE, samples: count = 128, onProgress } = options;
  const scalings = [...model.scalings()];
  const firsts = new Set(scalings.map(({ readers }) => readers[0]));
  const samples = await samplesOf(model, firsts, text, count);
  const layers = new ReplacedLayers(model);
  const moved = new MovedScales(model);
  try {
    for (const [done, scaling] of scalings.entries()) {
      const sample = samples.get(scaling.readers[0]);
      const factors = sample && await search(layers, scaling, sample, { bits, groupSize });
      if (factors) moved.move(scaling, factors);
      onProgress?.(done + 1, scalings.length);
    }
    const replaced = await quantizeLayers(model, { kind: `int${bits}`, groupSize });
    return {
      commit() {
        replaced.commit();
        moved.commit();
      },
      restore() {
        replaced.restore();
        moved.restore();
      },
    };
  } catch (error) {
    moved.restore();
    throw error;
  }
}
