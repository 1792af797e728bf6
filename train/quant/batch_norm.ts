/**
 * Batch normalization near quantization: folded into the layer before it, and trained so that the folded layer can be quantized.
 *
 * @module
 */
import { empty, type Tensor, tensor } from "../../core/tensor.ts";
import { constant } from "../../core/constant.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { conv2d } from "../../kernels/conv/conv2d.ts";
import { batchNorm } from "../../kernels/norm/batch_norm.ts";
import { add, div, mul } from "../../kernels/pointwise/arithmetic.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import type { BatchNorm } from "../nn/batch_norm.ts";
import { Conv2d } from "../nn/conv2d.ts";
import { Linear } from "../nn/linear.ts";
import { Module, type Named } from "../nn/module.ts";
import { type RoundedWeights, roundWeights, type WeightRounding } from "./round_weights.ts";

/** A layer whose output channels can be scaled by its weight's rows. */
export type FoldableLayer = Linear | Conv2d;

/** A normalization's numbers on the host. */
async function numbersOf({ weight, bias, running }: BatchNorm): Promise<Float32Array[]> {
  const tensors = [weight, bias, running.mean, running.variance];
  const found = await Promise.all(tensors.map((t) => t.read())) as Float32Array[];
  ["weight", "bias", "running mean", "running variance"].forEach((name, i) => {
    const isVariance = i === 3;
    const at = found[i].findIndex((x) => !Number.isFinite(x) || isVariance && x < 0);
    if (at < 0) return;
    throw new RangeError(
      `Cannot fold a batch normalization whose ${name} is ${
        found[i][at]
      } at channel ${at}: wanted ${
        isVariance ? "0 or more" : "a finite number"
      }; look for what went wrong in training`,
    );
  });
  return found;
}

function checkFits(layer: FoldableLayer, norm: BatchNorm): void {
  if (layer instanceof Linear && layer.branch) {
    throw new TypeError(
      "Cannot fold a batch normalization into a layer with an adapter: merge the adapter first",
    );
  }
  if (layer.weight.shape[0] === norm.weight.size) return;
  throw new RangeError(
    `Cannot fold a batch normalization of ${norm.weight.size} channels into a layer that gives ${
      layer.weight.shape[0]
    }`,
  );
}

/** A layer of the same kind and moves. */
function like(layer: FoldableLayer, weight: Tensor, bias: Tensor): FoldableLayer {
  return layer instanceof Linear ? new Linear(weight, bias) : new Conv2d(weight, bias, layer.moves);
}

/** γ / √(σ² + ε) and (b − μ) · γ / √(σ² + ε) + β of each channel. */
async function foldedNumbers(
  layer: FoldableLayer,
  norm: BatchNorm,
): Promise<{ factors: Float64Array; bias: Float32Array<ArrayBuffer> }> {
  const [gain, shift, mean, variance] = await numbersOf(norm);
  const own = await layer.bias?.read();
  const factors = Float64Array.from(gain, (g, i) => {
    if (variance[i] + norm.epsilon > 0) return g / Math.sqrt(variance[i] + norm.epsilon);
    throw new RangeError(
      `Cannot fold a batch normalization whose running variance is 0 at channel ${i} and its epsilon too: it divides by 0`,
    );
  });
  const bias = Float32Array.from(factors, (f, i) => ((own?.[i] ?? 0) - mean[i]) * f + shift[i]);
  return { factors, bias };
}

/**
 * Folds a batch normalization into the layer before it, by the running statistics: `W' = W · γ / √(σ² + ε)` for each output channel,
 * `b' = (b − μ) · γ / √(σ² + ε) + β`. The new layer gives what both gave when not in training, within rounding. Computed in 64 bits.
 *
 * @param layer a linear layer or a convolution; it stays as it is
 * @param norm what normalizes its output
 * @returns a new layer of the same kind
 * @throws {RangeError} if the numbers of channels differ, or a number is not finite
 * @throws {TypeError} if the layer has an adapter
 *
 * @example
 * ```ts
 * import { BatchNorm, foldBatchNorm, Linear, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const of = (...numbers: number[]) => tensor(device, new Float32Array(numbers));
 * const running = { mean: of(1), variance: of(4) };
 * const norm = new BatchNorm({ weight: of(6), bias: of(0.5), running, epsilon: 0 });
 * const layer = new Linear(tensor(device, new Float32Array([1, 2]), [1, 2]), of(3));
 * const folded = await foldBatchNorm(layer, norm);
 * console.log(await folded.weight.read(), await folded.bias!.read()); // [ 3, 6 ] [ 6.5 ]
 * ```
 */
export async function foldBatchNorm<T extends FoldableLayer>(
  layer: T,
  norm: BatchNorm,
): Promise<T> {
  checkFits(layer, norm);
  const { factors, bias } = await foldedNumbers(layer, norm);
  const weight = await layer.weight.read();
  const columns = weight.length / factors.length;
  const folded = Float32Array.from(weight, (w, i) => w * factors[Math.floor(i / columns)]);
  const { device, shape } = layer.weight;
  return like(layer, tensor(device, folded, shape), tensor(device, bias)) as T;
}

/** A layer with whole-numbered weights. */
export interface ConvertedLayer<T extends FoldableLayer> {
  /** The layer: its weight is codes times scales. */
  readonly layer: T;
  /** The whole numbers, as the weight lies. */
  readonly codes: Int8Array<ArrayBuffer>;
  /** Their step, or the step of each output channel. */
  readonly scales: Float32Array<ArrayBuffer>;
}

/**
 * A layer and its batch normalization, trained as they will be once folded and quantized. The weight is scaled by `γ / σ`, σ the
 * running deviation, and rounded: what folding and quantizing will do. The output is un-scaled, and normalized by the batch's own
 * statistics: as in training without quantization. Out of training both use the running statistics, and the scaling cancels.
 * Jacob et al. (arXiv 1712.05877), section 3.2; Krishnamoorthi (arXiv 1806.08342), section 3.2.2, whose correction of the scale from
 * batch to running statistics this is.
 *
 * A gain must not be 0: the output is divided by it. `convert` says so where it is.
 */
export class BatchNormQat<T extends FoldableLayer = FoldableLayer> extends Module {
  /** The layer, whose weight stays in 32 bits. */
  readonly layer: T;
  /** What normalizes its output. */
  readonly norm: BatchNorm;
  /** How weights are rounded. */
  readonly rounding: WeightRounding;

  /** Takes both as they are; they can be trained already. */
  constructor(layer: T, norm: BatchNorm, rounding: WeightRounding) {
    super();
    checkFits(layer, norm);
    this.layer = layer;
    this.norm = norm;
    this.rounding = rounding;
  }

  /** `γ / √(σ² + ε)` of the running variance, f32 [channels]: what normalization makes of 1 where mean and bias are 0. */
  #factors(): Tensor {
    const { weight, running, epsilon } = this.norm;
    const { device, size } = weight;
    // The running variance moves in this very pass: the backward pass shall see it as it is now.
    const variance = empty(device, [size]);
    device.copy(running.variance, variance);
    const filled = (value: number) =>
      constant(device, `batch_norm ${value} ${size}`, () => new Float32Array(size).fill(value));
    return batchNorm(filled(1), weight, filled(0), { mean: filled(0), variance }, { epsilon });
  }

  /** The scaled weight, rounded. */
  #rounded(factors: Tensor): RoundedWeights {
    const { weight } = this.layer;
    const rows = reshape(weight, [weight.shape[0], -1]);
    const scaled = mul(rows, reshape(factors, [factors.size, 1]));
    const { weight: rounded, scales } = roundWeights(scaled, this.rounding);
    return { weight: reshape(rounded, weight.shape), scales };
  }

  /**
   * Applies layer and normalization.
   *
   * @param x as the layer takes it
   * @param training by the batch's statistics, which the running ones then follow
   * @returns as the layer gives it
   */
  forward(x: Tensor, training = false): Tensor {
    const { layer, norm } = this;
    const factors = this.#factors();
    const { weight } = this.#rounded(factors);
    const scaled = layer instanceof Conv2d
      ? conv2d(x, weight, layer.moves)
      : matmul(x, weight, { transposeB: true });
    const own = div(scaled, factors);
    return norm.forward(layer.bias ? add(own, layer.bias) : own, training);
  }

  /**
   * Folds the normalization and quantizes: a layer that gives what this one gives out of training, within rounding.
   *
   * @throws {RangeError} if a gain is 0, or a number is not finite
   */
  async convert(): Promise<ConvertedLayer<T>> {
    const { factors, bias } = await foldedNumbers(this.layer, this.norm);
    const zero = factors.indexOf(0);
    if (zero >= 0) {
      throw new RangeError(
        `Cannot convert a batch normalization whose gain is 0 at channel ${zero}: the training divided by it; ` +
          "start again from other gains, or leave the channel out",
      );
    }
    const { device } = this.layer.weight;
    const parts = device.scope(() => this.#rounded(this.#factors()));
    const [numbers, scales] = await Promise.all([parts.weight.read(), parts.scales.read()]) as [
      Float32Array<ArrayBuffer>,
      Float32Array<ArrayBuffer>,
    ];
    parts.scales.dispose();
    const each = numbers.length / scales.length;
    const codes = Int8Array.from(numbers, (w, i) => {
      const scale = scales[Math.floor(i / each)];
      return scale === 0 ? 0 : Math.round(w / scale);
    });
    const layer = like(this.layer, parts.weight, tensor(device, bias)) as T;
    return { layer, codes, scales };
  }

  /** `layer` and `norm`. */
  override *children(): Generator<Named<Module>> {
    yield ["layer", this.layer];
    yield ["norm", this.norm];
  }
}
