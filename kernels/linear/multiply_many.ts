/**
 * Several linear layers on one input, and what surrounds them in a transformer, in one dispatch: for the few rows that generating
 * text multiplies, every dispatch that waits for another costs as much as reading a small weight.
 *
 * @module
 */
import { isTracking, needsGrad } from "../../core/autograd.ts";
import { checkDType, checkIsShape, rowsAndColumns, showShape } from "../../core/shape.ts";
import { empty, Tensor } from "../../core/tensor.ts";
import { rmsNorm } from "../norm/rms_norm.ts";
import { add as sum } from "../pointwise/arithmetic.ts";
import { siluGate } from "../pointwise/silu_gate.ts";
import type { QuantizedTensor } from "../quant/quantized_tensor.ts";
import type { ByteFactor } from "./int8_words.ts";
import { matmul } from "./matmul.ts";
import { byteFactorsOf, gateRounded, multiplyRounded } from "./multiply_rounded.ts";
import { STREAM_ROWS, type StreamProduct, streamProduct } from "./stream_product.ts";
import { denseFormat, type WeightFormat } from "./weight_format.ts";

/** A weight [rows, columns]: f32, f16, or quantized. */
export type Weight = Tensor | QuantizedTensor;

/** RMSNorm of x before the products. */
export interface InputNorm {
  /** f32 [columns]. */
  readonly gain: Tensor;
  /** Added to the mean square; Llama's 1e-5 by default. */
  readonly epsilon?: number;
}

/** What `multiplyMany` does besides multiplying. */
export interface MultiplyManyOptions {
  /** Normalises x first. */
  readonly norm?: InputNorm;
  /** f32 [rows] for each weight, or none. */
  readonly biases?: readonly (Tensor | null)[];
  /** f32 [..., rows], added to the result: a residual. Only with one weight. */
  readonly add?: Tensor;
}

/** Weights in one dispatch, at most. */
const MOST_WEIGHTS = 3;

function checkWeights(x: Tensor, weights: readonly Weight[]): void {
  checkDType("multiply", x, "f32", "x");
  const [, columns] = rowsAndColumns(x);
  for (const { shape } of weights) {
    if (shape.length !== 2 || shape[1] !== columns) {
      throw new RangeError(
        `Cannot multiply ${showShape(x.shape)} by ${
          showShape(shape)
        }ᵀ: inner sizes are ${columns} and ${shape.at(-1)}`,
      );
    }
  }
}

/** Whether a gradient must flow through something. */
function isTracked(tensors: readonly (Tensor | null | undefined)[]): boolean {
  return isTracking() && tensors.some((t) => t && needsGrad(t));
}

/** Weights that all round x alike, if they do and no gradient must flow. */
function roundingFactors(
  x: Tensor,
  weights: readonly Weight[],
  others: readonly (Tensor | null | undefined)[],
): ByteFactor[] | null {
  return isTracked([x, ...others]) ? null : byteFactorsOf(weights);
}

/** The formats of weights, or `null` if one of them has none, or a gradient must flow, or this device takes other kernels. */
function formatsOf(
  x: Tensor,
  weights: readonly Weight[],
  others: readonly (Tensor | null | undefined)[],
): WeightFormat[] | null {
  const { device } = x;
  const [m, columns] = rowsAndColumns(x);
  if (device.adapter.type === "software" || m > STREAM_ROWS || columns % 4 !== 0) return null;
  const plain = weights.filter((weight) => weight instanceof Tensor);
  if (isTracked([x, ...plain, ...others])) return null;
  const formats: WeightFormat[] = [];
  for (const weight of weights) {
    if (weight instanceof Tensor) {
      formats.push(denseFormat(weight));
    } else {
      const packed = weight.asFactor?.();
      if (!packed?.whole) return null;
      formats.push(packed.streamed(m));
    }
  }
  return formats;
}

/** Whether a device has as many bindings as one dispatch needs. */
function fitsBindings({ x, formats, outs, norm, add, biases = [] }: StreamProduct): boolean {
  const bindings = 1 + outs.length + (norm ? 1 : 0) + (add ? 1 : 0) +
    biases.filter(Boolean).length +
    formats.reduce((total, format) => total + format.bindings.length, 0);
  return bindings <= x.device.mostBuffers;
}

function times(x: Tensor, weight: Weight, add?: Tensor): Tensor {
  return weight instanceof Tensor
    ? matmul(x, weight, { transposeB: true, add })
    : weight.multiply(x, { add });
}

/**
 * `norm(x) · Wᵀ + b (+ add)` for one to three weights: attention's queries, keys and values, or a projection with its residual. On
 * a GPU, for up to eight rows of x without a gradient, this is one dispatch; else it is the separate ops. Weights that round x to
 * bytes alike share what is rounded: where the products are large, by a dispatch before that one.
 *
 * @param x f32 [..., columns]
 * @param weights [rows, columns] each
 * @param options normalisation, biases, a residual
 * @returns f32 [..., rows] for each weight
 * @throws {RangeError} if inner sizes differ, or something is added to more than one result
 *
 * @example
 * ```ts
 * import { multiplyMany, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4]), [1, 4]);
 * const w = tensor(device, new Float32Array([1, 0, 0, 0, 0, 1, 0, 0]), [2, 4]);
 * const [q, k] = multiplyMany(x, [w, w]);
 * console.log(await q.read(), await k.read()); // [ 1, 2 ] [ 1, 2 ]
 * ```
 */
export function multiplyMany(
  x: Tensor,
  weights: readonly Weight[],
  options: MultiplyManyOptions = {},
): Tensor[] {
  checkWeights(x, weights);
  const { norm, biases = [], add } = options;
  const shapes = weights.map(({ shape }) => [...x.shape.slice(0, -1), shape[0]]);
  if (norm) checkIsShape("normalize", norm.gain, [weights[0].shape[1]], "gain");
  biases.forEach((bias, i) =>
    bias && checkIsShape("add to a product", bias, [weights[i].shape[0]], "bias")
  );
  if (add) {
    if (weights.length !== 1) {
      throw new RangeError(
        `Cannot add one tensor to the products with ${weights.length} weights: pass one weight`,
      );
    }
    checkIsShape("add to a product", add, shapes[0], "add");
  }
  const others = [norm?.gain, add, ...biases];
  const shared = { x, norm: norm && { gain: norm.gain, epsilon: norm.epsilon ?? 1e-5 } };
  const factors = roundingFactors(x, weights, others);
  if (factors) return multiplyRounded({ ...shared, factors, add, biases });
  const formats = weights.length <= MOST_WEIGHTS ? formatsOf(x, weights, others) : null;
  if (formats) {
    const product: StreamProduct = {
      ...shared,
      m: rowsAndColumns(x)[0],
      formats,
      outs: shapes.map((shape) => empty(x.device, shape)),
      add,
      biases,
    };
    if (fitsBindings(product)) {
      streamProduct(product);
      return [...product.outs];
    }
  }
  const input = norm ? rmsNorm(x, norm.gain, norm.epsilon) : x;
  return weights.map((weight, i) => {
    const bias = biases[i];
    const y = times(input, weight, add);
    return bias ? sum(y, bias) : y;
  });
}

/**
 * `silu(norm(x) · gateᵀ) · (norm(x) · upᵀ)`: the first half of a SwiGLU feed-forward layer. On a GPU, for up to eight rows of x
 * without a gradient, this is one dispatch, or two if the weights round x to bytes and are large; else it is the
 * separate ops.
 *
 * @param x f32 [..., columns]
 * @param gate [rows, columns]
 * @param up [rows, columns]
 * @param options normalisation
 * @returns f32 [..., rows]
 * @throws {RangeError} if inner sizes differ, or the two weights' shapes
 *
 * @example
 * ```ts
 * import { multiplyGated, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4]), [1, 4]);
 * const w = tensor(device, new Float32Array([1, 0, 0, 0]), [1, 4]);
 * console.log(await multiplyGated(x, w, w).read()); // silu(1) · 1 = [ 0.731… ]
 * ```
 */
export function multiplyGated(
  x: Tensor,
  gate: Weight,
  up: Weight,
  options: { norm?: InputNorm } = {},
): Tensor {
  checkWeights(x, [gate, up]);
  if (gate.shape[0] !== up.shape[0]) {
    throw new RangeError(
      `Cannot gate ${up.shape[0]} columns by ${gate.shape[0]}: the weights are ${
        showShape(gate.shape)
      } and ${showShape(up.shape)}`,
    );
  }
  const { norm } = options;
  if (norm) checkIsShape("normalize", norm.gain, [gate.shape[1]], "gain");
  const shared = { x, norm: norm && { gain: norm.gain, epsilon: norm.epsilon ?? 1e-5 } };
  const factors = roundingFactors(x, [gate, up], [norm?.gain]);
  if (factors) return gateRounded({ ...shared, factors });
  const formats = formatsOf(x, [gate, up], [norm?.gain]);
  // Both share what is loaded of x.
  const fits = formats?.every(({ unit, order }) =>
    unit === formats[0].unit && order === formats[0].order
  );
  if (formats && fits) {
    const product: StreamProduct = {
      ...shared,
      m: rowsAndColumns(x)[0],
      formats,
      outs: [empty(x.device, [...x.shape.slice(0, -1), gate.shape[0]])],
      gated: true,
    };
    if (fitsBindings(product)) {
      streamProduct(product);
      return product.outs[0];
    }
  }
  const input = norm ? rmsNorm(x, norm.gain, norm.epsilon) : x;
  return siluGate(times(input, gate), times(input, up));
}
