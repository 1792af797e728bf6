/**
 * Convolution as a layer.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { conv2d } from "../../kernels/conv/conv2d.ts";
import { Module, type Named } from "./module.ts";

/** How a convolution's kernel moves. */
export interface Moves {
  /** Pixels from one place to the next; 1 by default. */
  readonly stride?: number;
  /** Zeros around the picture, on each side; 0 by default. */
  readonly padding?: number;
}

/** A convolution of pictures with channels last. */
export class Conv2d extends Module {
  /** f32 [outChannels, kernelHeight, kernelWidth, channels]. */
  readonly weight: Tensor;
  /** f32 [outChannels], or null. */
  readonly bias: Tensor | null;
  /** How the kernel moves. */
  readonly moves: Moves;

  /** Takes weight and bias as they are. */
  constructor(weight: Tensor, bias: Tensor | null = null, moves: Moves = {}) {
    super();
    this.weight = weight;
    this.bias = bias;
    this.moves = moves;
  }

  /** f32 [batch, height, width, channels] to [batch, rows, columns, outChannels]. */
  forward(x: Tensor): Tensor {
    return conv2d(x, this.weight, { ...this.moves, bias: this.bias });
  }

  /** `weight`, and `bias` if there is one. */
  override *tensors(): Generator<Named<Tensor>> {
    yield ["weight", this.weight];
    if (this.bias) yield ["bias", this.bias];
  }
}
