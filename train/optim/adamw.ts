/**
 * The AdamW optimizer with gradient clipping.
 *
 * @module
 */
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { ADAMW_BLOCK, adamwStep } from "../../kernels/optim/adamw.ts";
import { gradNorm } from "../../kernels/optim/grad_norm.ts";
import type { FlatParameters } from "./flat_parameters.ts";

/** How AdamW steps; the learning rate is given to each step. */
export interface AdamWOptions {
  /** Decay of the running means of the gradient and of its square: 0.9 and 0.999 (Kingma and Ba, arXiv 1412.6980). */
  readonly betas?: readonly [number, number];
  /** Added to the square root: 1e-8. */
  readonly epsilon?: number;
  /**
   * Decoupled weight decay (Loshchilov and Hutter, arXiv 1711.05101), 0 by default. Gains and biases never decay;
   * DoRA's magnitudes do, as with PyTorch's optimizer in PEFT's examples and transformers' Trainer.
   */
  readonly weightDecay?: number;
  /** The largest norm of a step's whole gradient, 1 by default; 0 for no clipping. */
  readonly maxGradNorm?: number;
}

function check(name: string, value: number, isValid: boolean, wanted: string): void {
  if (!isValid) throw new RangeError(`Cannot step with ${name} ${value}: wanted ${wanted}`);
}

/** AdamW over flat parameters. */
export class AdamW {
  /** f32 [size]: the running mean of the gradient. */
  readonly first: Tensor;
  /** f32 [size]: the running mean of the gradient's square. */
  readonly second: Tensor;
  readonly #parameters: FlatParameters;
  readonly #hyper: Tensor;
  readonly #blocks: Tensor;
  readonly #options: Required<AdamWOptions>;

  /** Starts with zero moments. Throws a RangeError if an option makes no sense. */
  constructor(parameters: FlatParameters, options: AdamWOptions = {}) {
    const { betas = [0.9, 0.999], epsilon = 1e-8, weightDecay = 0, maxGradNorm = 1 } = options;
    for (const beta of betas) check("beta", beta, beta >= 0 && beta < 1, "0 to 1, without 1");
    check("epsilon", epsilon, epsilon > 0, "a number above 0");
    check("weight decay", weightDecay, weightDecay >= 0, "0 or more");
    check("a largest norm of", maxGradNorm, maxGradNorm >= 0, "0 or more");
    this.#options = { betas, epsilon, weightDecay, maxGradNorm };
    this.#parameters = parameters;
    const { device } = parameters;
    this.first = device.keep(zeros(device, [parameters.size]));
    this.second = device.keep(zeros(device, [parameters.size]));
    this.#hyper = device.keep(zeros(device, [7]));
    const blocks = new Float32Array(2 * Math.ceil(parameters.size / ADAMW_BLOCK));
    for (const { name, tensor, at } of parameters.segments) {
      const decays = tensor.shape.length > 1 || name.endsWith(".lora_magnitude_vector");
      const decay = decays ? weightDecay : 0;
      const from = at / ADAMW_BLOCK;
      for (let i = from; i < from + Math.ceil(tensor.size / ADAMW_BLOCK); i++) {
        blocks.set([1, decay], 2 * i);
      }
    }
    this.#blocks = device.keep(tensor(device, blocks, [blocks.length / 2, 2]));
  }

  /** Writes what the next step needs: its number, counted from 1, and its learning rate. */
  prepare(step: number, learningRate: number): void {
    const { betas: [beta1, beta2], epsilon, maxGradNorm } = this.#options;
    const hyper = Float32Array.of(
      learningRate,
      beta1,
      beta2,
      epsilon,
      1 - beta1 ** step,
      Math.sqrt(1 - beta2 ** step),
      maxGradNorm,
    );
    this.#parameters.device.write(this.#hyper, hyper);
  }

  /**
   * Queues a step with the gathered gradient, and sets the gradient to zero. `prepare` comes before it.
   *
   * @returns f32 [1]: the norm of the gradient before clipping
   */
  step(): Tensor {
    const { weights, grad, device } = this.#parameters;
    const norm = gradNorm(grad);
    adamwStep({
      weights,
      first: this.first,
      second: this.second,
      grad,
      norm,
      hyper: this.#hyper,
      blocks: this.#blocks,
    });
    device.clear(grad);
    return norm;
  }

  /** Frees the moments. */
  dispose(): void {
    for (const t of [this.first, this.second, this.#hyper, this.#blocks]) t.dispose();
  }
}
