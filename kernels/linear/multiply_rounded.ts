/**
 * Products of one input with several weights that round it alike: it is rounded once, for few rows on a GPU in the dispatch that
 * normalizes it, and the products are one more.
 *
 * @module
 */
import { empty, Tensor } from "../../core/tensor.ts";
import { add as sum } from "../pointwise/arithmetic.ts";
import { siluGate } from "../pointwise/silu_gate.ts";
import { quantizeNormalized } from "../quant/quantize_normalized.ts";
import type { QuantizedTensor } from "../quant/quantized_tensor.ts";
import { isSameRounding, type QuantizedRows, quantizeRows } from "../quant/quantize_rows.ts";
import { chooseBytes, runBytes } from "./int8_matmul.ts";
import { byteStream, type ByteStreamProduct, fitsOneByteStream } from "./int8_stream.ts";
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

/** The products in one dispatch, if there is a kernel for them all. */
function streamed(product: RoundedProduct, x: QuantizedRows, gated: boolean): Tensor[] | null {
  const { factors, add, biases } = product;
  const m = x.codes.shape[0];
  if (factors.some(({ weight }) => chooseBytes({ weight, m }) !== "stream")) return null;
  const weights = factors.map(({ weight }) => weight);
  const outs = (gated ? weights.slice(1) : weights).map(({ device, shape }) =>
    empty(device, [...x.shape.slice(0, -1), shape[0]])
  );
  const own: ByteStreamProduct = { x, m, weights, outs, gated, add, biases };
  if (!fitsOneByteStream(own)) return null;
  byteStream(own);
  return outs;
}

/** `x̂ · Wᵀ + b (+ add)` for each weight, where x̂ is x, normalised and rounded: f32 [..., n]. Not tracked. */
export function multiplyRounded(product: RoundedProduct): Tensor[] {
  const { factors, add, biases = [] } = product;
  const x = roundedInput(product);
  return streamed(product, x, false) ?? factors.map(({ weight, sums }, i) => {
    const y = runBytes(x, weight, { add, sums });
    const bias = biases[i];
    return bias ? sum(y, bias) : y;
  });
}

/** `silu(x̂ · gateᵀ) · (x̂ · upᵀ)` with a gate and what it gates, of one shape: f32 [..., n]. Not tracked. */
export function gateRounded(product: RoundedProduct): Tensor {
  const x = roundedInput(product);
  const found = streamed(product, x, true);
  if (found) return found[0];
  const [gate, up] = product.factors.map(({ weight, sums }) => runBytes(x, weight, { sums }));
  return siluGate(gate, up);
}
