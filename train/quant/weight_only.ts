/**
 * Linear layers in few bits, each on its own: rounded to nearest, in bitsandbytes' types, or by HQQ. No text is needed.
 *
 * @module
 */
import { type Tensor, tensor } from "../../core/tensor.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import { columnChoice } from "../../kernels/pointwise/pick_columns.ts";
import { quantizeFourBit } from "../../kernels/quant/four_bit_quantize.ts";
import { hqq } from "../../kernels/quant/hqq.ts";
import { integerFromCodes } from "../../kernels/quant/integer_codes.ts";
import {
  type IntegerOptions,
  type IntegerTensor,
  type IntegerType,
  quantizeInteger,
} from "../../kernels/quant/integer.ts";
import { OutlierTensor } from "../../kernels/quant/outlier_split.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { moveOut } from "../models/move_out.ts";
import { FakeQuantLinear } from "../nn/fake_quant_linear.ts";
import { type LinearLayer, QuantizedLinear } from "../nn/linear.ts";

/** How a weight is put into few bits. */
export type WeightScheme = UniformScheme | SplitScheme;

/** A scheme for all weights of a layer. */
export type UniformScheme =
  /**
   * Whole numbers, rounded to nearest: see `IntegerOptions`. int8 is symmetric, −127 to 127, with a scale for each row, and the others
   * have 16, 8 or 4 levels with a zero point, and a scale for each 64 weights, unless something else is said.
   */
  | ({ readonly kind: IntegerType } & Omit<IntegerOptions, "type">)
  /** As many levels with a zero that HQQ searches; 4 bits by default. */
  | { readonly kind: "hqq"; readonly bits?: 4 | 3 | 2; readonly groupSize?: number }
  /** bitsandbytes' types. */
  | {
    readonly kind: "nf4" | "fp4";
    readonly blockSize?: number;
    readonly doubleQuant?: boolean;
  };

/** Some input channels in 16 bits, the rest in another scheme. */
export interface SplitScheme {
  /** Which kind this is. */
  readonly kind: "split";
  /** What the other channels get. */
  readonly rest: UniformScheme;
  /** The share of channels that are kept, above 0 and below 1. */
  readonly share: number;
  /** Which channels, ascending; by default those whose weights are largest together. */
  readonly columns?: readonly number[];
}

/** Weights that share a scale, where nothing else is said. */
export const GROUP_SIZE = 64;

/** u32 codes on the device as bytes on the host. */
export async function readCodes(codes: Tensor): Promise<Uint8Array<ArrayBuffer>> {
  return Uint8Array.from(await codes.read());
}

async function byHqq(
  weight: Tensor,
  bits: 4 | 3 | 2,
  groupSize: number,
): Promise<IntegerTensor> {
  const { device } = weight;
  const made = device.scope(() => hqq(weight, bits, groupSize));
  const [codes, scales] = await Promise.all([readCodes(made.codes), made.scales.read()]);
  made.codes.dispose();
  made.scales.dispose();
  // A zero that is kept in 16 bits moves by less than 0.004 of a step.
  const parts = scales.map((value, i) => i % 2 === 1 ? Math.f16round(value) : value);
  return integerFromCodes(device, [weight.shape[0], weight.shape[1]], {
    type: `int${bits}`,
    ...{ groupSize, codes, scales: parts as Float32Array<ArrayBuffer> },
  });
}

/** So many indexes of the largest scores, ascending; at least one. */
export function largestIndexes(scores: ArrayLike<number>, share: number): number[] {
  if (!(share > 0 && share < 1)) {
    throw new RangeError(
      `Cannot keep a share of ${share} of the channels: wanted a number above 0 and below 1, such as 0.1`,
    );
  }
  const order = Array.from(scores, (_, i) => i).sort((a, b) => scores[b] - scores[a] || a - b);
  const count = Math.max(1, Math.round(share * order.length));
  return order.slice(0, Math.min(count, order.length)).sort((a, b) => a - b);
}

/** Sums of squares of the columns. */
function columnSquares(numbers: Float32Array, columns: number): Float64Array {
  const sums = new Float64Array(columns);
  for (let i = 0; i < numbers.length; i++) sums[i % columns] += numbers[i] ** 2;
  return sums;
}

async function splitWeight(weight: Tensor, scheme: SplitScheme): Promise<OutlierTensor> {
  const { device, shape: [rows, width] } = weight;
  const numbers = await weight.read() as Float32Array<ArrayBuffer>;
  const columns = scheme.columns ?? largestIndexes(columnSquares(numbers, width), scheme.share);
  const others = numbers.slice();
  for (let row = 0; row < rows; row++) {
    for (const column of columns) others[row * width + column] = 0;
  }
  using plain = device.keep(tensor(device, others, [rows, width]));
  const rest = await quantizeWeight(plain, scheme.rest);
  using decoded = rest.dequantize();
  const back = await decoded.read() as Float32Array;
  // What the rest has in these columns is 0, but for HQQ, whose zeros are not exact.
  const lacking = Float32Array.from(
    { length: rows * columns.length },
    (_, i) => {
      const at = Math.floor(i / columns.length) * width + columns[i % columns.length];
      return numbers[at] - back[at];
    },
  );
  const kept = device.scope(() =>
    device.keep(cast(tensor(device, lacking, [rows, columns.length]), "f16"))
  );
  return new OutlierTensor(rest, kept, columnChoice(device, columns, width));
}

/** A weight f32 [rows, columns] in few bits. Throws a RangeError for NaN, or a group size that makes no sense. */
export async function quantizeWeight(
  weight: Tensor,
  scheme: WeightScheme,
): Promise<QuantizedTensor> {
  const { device } = weight;
  const shape = [weight.shape[0], weight.shape[1]] as const;
  switch (scheme.kind) {
    case "int8":
    case "int4":
    case "int3":
    case "int2": {
      const numbers = await weight.read() as Float32Array;
      const { kind: type, groupSize, per, range } = scheme;
      return quantizeInteger(device, numbers, shape, { type, groupSize, per, range });
    }
    case "hqq":
      return await byHqq(weight, scheme.bits ?? 4, scheme.groupSize ?? GROUP_SIZE);
    case "nf4":
    case "fp4": {
      const { kind: type, blockSize, doubleQuant } = scheme;
      return await quantizeFourBit(weight, { type, blockSize, doubleQuant });
    }
    case "split":
      return await splitWeight(weight, scheme);
    default:
      throw new RangeError(
        `there is no scheme ${
          JSON.stringify((scheme as WeightScheme).kind)
        }, wanted int8, int4, int3, int2, hqq, nf4, fp4 or split`,
      );
  }
}

/** Layers of a model that were replaced, and can be put back. */
export class ReplacedLayers {
  readonly #model: LanguageModel;
  readonly #before = new Map<string, LinearLayer>();

  /** Nothing is replaced yet. */
  constructor(model: LanguageModel) {
    this.#model = model;
  }

  /**
   * Puts a quantized weight in the place of a layer's; bias and adapter stay.
   *
   * @param path the layer's
   * @param weight what it shall multiply by
   * @param make the layer that shall do so, from the weight and the bias: by default one that decodes the weight
   */
  replace<Weight extends QuantizedTensor>(
    path: string,
    weight: Weight,
    make: (weight: Weight, bias: Tensor | null) => LinearLayer = (own, bias) =>
      new QuantizedLinear(own, bias),
  ): void {
    const layer = this.layer(path);
    if (layer instanceof FakeQuantLinear) {
      throw new TypeError(
        `Cannot replace "${path}": it is in quantization-aware training; call convertQat, or remove() what prepareQat returned`,
      );
    }
    if (!this.#before.has(path)) this.#before.set(path, layer);
    const quantized = make(weight, layer.bias);
    quantized.branch = layer.branch;
    this.#model.replaceLinear(path, quantized);
    if (this.#before.get(path) !== layer) layer.dispose();
  }

  /** The layer at a path as it is now. */
  layer(path: string): LinearLayer {
    for (const [own, layer] of this.#model.linearLayers()) if (own === path) return layer;
    throw new RangeError(`Cannot find "${path}": the model has no linear layer of that name`);
  }

  /** Puts the layers back as they were, and frees those that were in their place. */
  restore(): void {
    for (const [path, before] of this.#before) {
      const now = this.layer(path);
      before.branch = now.branch;
      this.#model.replaceLinear(path, before);
      now.dispose();
    }
    this.#before.clear();
  }

  /** Keeps the new layers, and frees the old ones. */
  commit(): void {
    const old = [...this.#before.values()];
    const freed = old.flatMap((layer) => [...layer.tensors()].map(([, own]) => own));
    const biases = new Set(old.map(({ bias }) => bias));
    moveOut(this.#model, new Set(freed.filter((own) => !biases.has(own))));
    for (const before of old) before.dispose();
    this.#before.clear();
  }
}

/** Throws a TypeError if a layer, of those that are chosen, is quantized: it has lost already what should be kept or measured. */
export function checkPlain(
  model: LanguageModel,
  action: string,
  chosen: (path: string) => boolean = () => true,
): void {
  for (const [path, layer] of model.linearLayers()) {
    if (!(layer instanceof QuantizedLinear) || !chosen(path)) continue;
    throw new TypeError(
      `Cannot ${action} a model whose "${path}" is in ${layer.weight.scheme}: wanted plain weights; load it without quantize, or ` +
        "with dequantize: true",
    );
  }
}

/** A layer's weight as a tensor, and whether the caller must free it. */
export function denseWeight(layer: LinearLayer): { weight: Tensor; own: boolean } {
  const weight = layer.dense();
  return { weight, own: !("weight" in layer && layer.weight === weight) };
}

/**
 * Quantizes the linear layers of a model in place, all or those chosen.
 *
 * @param model a model with plain weights
 * @param scheme how, or for each layer how: null leaves one as it is
 * @returns what was replaced: `commit()` frees the plain weights, `restore()` puts them back
 * @throws {TypeError} if a layer is quantized already
 * @throws {RangeError} if a weight is not finite, or a scheme makes no sense
 *
 * @example
 * ```ts
 * import { openDevice, quantizeLayers, randomModel } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const model = randomModel(device, {
 *   model_type: "llama",
 *   vocab_size: 320,
 *   hidden_size: 64,
 *   intermediate_size: 128,
 *   num_hidden_layers: 2,
 *   num_attention_heads: 4,
 * });
 * const before = model.weightBytes;
 * (await quantizeLayers(model, { kind: "int8" })).commit();
 * console.log(before, model.weightBytes);
 * ```
 */
export async function quantizeLayers(
  model: LanguageModel,
  scheme: WeightScheme | ((path: string) => WeightScheme | null),
): Promise<ReplacedLayers> {
  const choose = typeof scheme === "function" ? scheme : () => scheme;
  const schemes = new Map([...model.linearLayers()].map(([path]) => [path, choose(path)]));
  checkPlain(model, "quantize", (path) => Boolean(schemes.get(path)));
  const replaced = new ReplacedLayers(model);
  try {
    for (const [path, layer] of [...model.linearLayers()]) {
      const own = schemes.get(path);
      if (!own) continue;
      const dense = denseWeight(layer);
      try {
        replaced.replace(path, await quantizeWeight(dense.weight, own));
      } catch (error) {
        throw new RangeError(`Cannot quantize "${path}": ${(error as Error).message}`, {
          cause: error,
        });
      } finally {
        if (dense.own) dense.weight.dispose();
      }
    }
  } catch (error) {
    replaced.restore();
    throw error;
  }
  return replaced;
}
