/**
 * Products of one input with weights that round it alike: it is rounded once, and for few rows on a GPU all products are one dispatch,
 * which rounds x itself while it is small; else a dispatch before it normalizes and rounds.
 *
 * @module
 */
import { rowsAndColumns } from "../../core/shape.ts";
import { empty, Tensor } from "../../core/tensor.ts";
import { add as sum } from "../pointwise/arithmetic.ts";
import { siluGate } from "../pointwise/silu_gate.ts";
import { quantizeNormalized } from "../quant/quantize_normalized.ts";
import type { QuantizedTensor } from "../quant/quantized_tensor.ts";
import { isSameRounding, type QuantizedRows, quantizeRows } from "../quant/quantize_rows.ts";
import { chooseBytes, runBytes } from "./int8_product.ts";
import { byteStream, fitsOneByteStream, roundsFloats } from "./int8_stream.ts";
import type { ByteFactor } from "./int8_words.ts";

/** An input, and weights that round it alike. */
export interface RoundedProduct {
  /** f32 [..., k]. */
  readonly x: Tensor;
  /** One weight [n, k] or more. */
  readonly factors: readonly ByteFactor[];
  /** Normalise x by its rows first. */
  readonly norm?: { readonly gain: Tensor; readonly epsilon: number };
  /** f32 [..., n], added to the one result. */
  readonly add?: Tensor;
  /** f32 [n] for each weight, or none. */
  readonly biases?: readonly (Tensor | null)[];
}

/** Weights as they multiply bytes, if all of them round what they multiply alike, and else null. */
export function byteFactorsOf(weights: readonly (Tensor | QuantizedTensor)[]): ByteFactor[] | null {
  const factors: ByteFactor[] = [];
  for (const weight of weights) {
    const factor = weight instanceof Tensor ? undefined : weight.asBytes?.();
    if (!factor) return null;
    if (factors.length > 0 && !isSameRounding(factor.activations, factors[0].activations)) {
      return null;
    }
    factors.push(factor);
  }
  return factors;
}

function roundedInput({ x, factors: [{ activations }], norm }: RoundedProduct): QuantizedRows {
  return norm
    ? quantizeNormalized(x, norm.gain, norm.epsilon, activations)
    : quantizeRows(x, activations);
}

/** The products in one dispatch, if there is a kernel for them all: it may round x, too. */
function streamed(product: RoundedProduct, gated: boolean): Tensor[] | null {
  const { x, factors, norm, add, biases } = product;
  const [m] = rowsAndColumns(x);
  if (factors.some(({ weight }) => chooseBytes({ weight, m }) !== "stream")) return null;
  const weights = factors.map(({ weight }) => weight);
  const products = { m, weights, gated, add, biases };
  if (!fitsOneByteStream(products)) return null;
  const floats = { x, activations: factors[0].activations, norm };
  const input = roundsFloats(floats, products) ? floats : roundedInput(product);
  const outs = (gated ? weights.slice(1) : weights).map(({ device, shape }) =>
    empty(device, [...x.shape.slice(0, -1), shape[0]])
  );
  byteStream({ ...products, x: input, outs });
  return outs;
}

/** Each product in a dispatch of its own. */
function apart(product: RoundedProduct): Tensor[] {
  const { factors, add } = product;
  const x = roundedInput(product);
  return factors.map(({ weight, sums }) => runBytes(x, weight, { add, sums }));
}

/** `x̂ · Wᵀ + b (+ add)` for each weight, where x̂ is x, normalised and rounded: f32 [..., n]. Not tracked. */
export function multiplyRounded(product: RoundedProduct): Tensor[] {
  const found = streamed(product, false);
  if (found) return found;
  return apart(product).map((y, i) => {
    const bias = product.biases?.[i];
    return bias ? sum(y, bias) : y;
  });
}

/** `silu(x̂ · gateᵀ) · (x̂ · upᵀ)` with a gate and what it gates, of one shape: f32 [..., n]. Not tracked. */
export function gateRounded(product: RoundedProduct): Tensor {
  const found = streamed(product, true);
  if (found) return found[0];
  const [gate, up] = apart(product);
  return siluGate(gate, up);
}
