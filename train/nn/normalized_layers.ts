/**
 * Layers behind a normalization. Where no gradient flows and the layers have no branches, norm and products are one dispatch.
 *
 * @module
 */
import { isTracking, kept, recomputable } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import {
  type InputNorm,
  multiplyGated,
  multiplyMany,
  type Weight,
} from "../../kernels/linear/multiply_many.ts";
import { siluGate } from "../../kernels/pointwise/silu_gate.ts";
import type { LinearLayer } from "./linear.ts";
import type { RmsNorm } from "./norm.ts";

/** The weights of layers that are nothing but products, or null if one of them is more, or gradients are tracked. */
function bareFactors(layers: readonly LinearLayer[]): Weight[] | null {
  if (isTracking()) return null;
  const factors = layers.map(({ bareFactor }) => bareFactor);
  return factors.every((factor) => factor !== null) ? factors : null;
}

function inputNorm({ weight, epsilon }: RmsNorm): InputNorm {
  return { gain: weight, epsilon };
}

/** Each layer of `norm(x)`: f32 [..., columns] to [..., outFeatures]. */
export function normalizedLayers(
  x: Tensor,
  norm: RmsNorm,
  layers: readonly LinearLayer[],
): Tensor[] {
  const weights = bareFactors(layers);
  if (weights) {
    return multiplyMany(x, weights, {
      norm: inputNorm(norm),
      biases: layers.map(({ bias }) => bias),
    });
  }
  const input = norm.forward(x);
  return layers.map((layer) => layer.forward(input));
}

/** `silu(gate(norm(x))) · up(norm(x))`: f32 [..., columns] to [..., outFeatures]. */
export function normalizedGate(
  x: Tensor,
  norm: RmsNorm,
  gate: LinearLayer,
  up: LinearLayer,
): Tensor {
  const weights = gate.bias || up.bias ? null : bareFactors([gate, up]);
  if (weights) return multiplyGated(x, weights[0], weights[1], { norm: inputNorm(norm) });
  const input = norm.forward(x);
  const [gated, raised] = [gate.forward(input), up.forward(input)];
  return recomputable(() => siluGate(kept(gated), kept(raised)));
}

/** `norm(x) · Wᵀ`, f32 [..., columns] to [..., rows]. */
export function normalizedProduct(x: Tensor, norm: RmsNorm, weight: Tensor): Tensor {
  return isTracking()
    ? matmul(norm.forward(x), weight, { transposeB: true })
    : multiplyMany(x, [weight], { norm: inputNorm(norm) })[0];
}
