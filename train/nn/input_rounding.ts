/**
 * How the inputs of a layer with an integer weight are rounded, as a value: what files keep, and what layers are made from.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { type AffineParameters, type AffineScheme, levelsOf } from "../../kernels/quant/affine.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import type { ActivationScheme } from "../../kernels/quant/quantize_rows.ts";
import { InputQuantizedLinear } from "./fake_quant_linear.ts";
import { FixedQuantizer, TokenQuantizer } from "./fake_quantizer.ts";
import type { LinearLayer, QuantizedLinear } from "./linear.ts";
import { QuantizedActivationLinear } from "./quantized_activations.ts";

/** How the inputs of a layer become whole numbers. */
export interface InputRounding {
  /** Which whole numbers. */
  readonly scheme: AffineScheme;
  /** The step and the zero point of all inputs; null where each token has those of its own range. */
  readonly fixed: AffineParameters | null;
}

/** The same rounding as one to signed bytes, if that is what it is: products are then in whole numbers. */
export function bytesOf({ scheme, fixed }: InputRounding): ActivationScheme | null {
  if (scheme.bits !== 8) return null;
  const { least, most } = levelsOf(scheme);
  if (!fixed) {
    return scheme.kind === "symmetric" && least === -127 ? { kind: "dynamic" } : null;
  }
  const { scale, zero } = fixed;
  const shift = most - 127;
  // Where all inputs were 0 the scale is 0, and they stay as they are.
  if (scale < 2 ** -126) return null;
  return { kind: "static", scale, zero: zero - shift, least: least - shift };
}

/** A layer that rounds its inputs, and multiplies in whole numbers if it can. */
export function roundingLayer(
  weight: IntegerTensor,
  bias: Tensor | null,
  rounding: InputRounding,
): QuantizedLinear {
  const bytes = bytesOf(rounding);
  if (bytes) return new QuantizedActivationLinear(weight, bytes, bias);
  const { scheme, fixed } = rounding;
  const inputs = fixed
    ? new FixedQuantizer(weight.device, scheme, fixed)
    : new TokenQuantizer(scheme);
  return new InputQuantizedLinear(weight, bias, inputs);
}

/** How bytes are rounded to. */
export function roundingToBytes(activations: ActivationScheme): InputRounding {
  if (activations.kind === "dynamic") {
    return { scheme: { bits: 8, kind: "symmetric" }, fixed: null };
  }
  const { scale, zero, least = zero === 0 ? -127 : -128 } = activations;
  const scheme: AffineScheme = least === -127 && zero === 0
    ? { bits: 8, kind: "symmetric" }
    : { bits: 8, kind: "asymmetric", levels: least === -127 ? "restricted" : "signed" };
  return { scheme, fixed: { scale, zero } };
}

/** How a layer rounds its inputs; null if it does not. A layer that `roundingLayer` makes of it gives the same results. */
export function roundingOf(layer: LinearLayer): InputRounding | null {
  if (layer instanceof QuantizedActivationLinear) return roundingToBytes(layer.activations);
  if (!(layer instanceof InputQuantizedLinear)) return null;
  const { inputs } = layer;
  const fixed = inputs instanceof FixedQuantizer ? inputs.parameters : null;
  return { scheme: inputs.scheme, fixed };
}

/**
 * The step and the zero point of a fixed rounding in another scheme, if that rounds to the same numbers: unsigned whole numbers are
 * signed ones that are counted from another one. Null if it does not.
 */
export function fixedAs(
  { scheme, fixed }: InputRounding,
  wanted: AffineScheme,
): AffineParameters | null {
  if (!fixed) return null;
  const [from, to] = [levelsOf(scheme), levelsOf(wanted)];
  if (from.most - from.least !== to.most - to.least) return null;
  const zero = fixed.zero - from.least + to.least;
  const middle = to.least === 0 ? 2 ** (wanted.bits - 1) : 0;
  return wanted.kind === "asymmetric" || zero === middle ? { scale: fixed.scale, zero } : null;
}
