/**
 * Moving factors for channels from one layer into the next.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import { keptCopy, type Tensor, tensor, viewOf } from "../../core/tensor.ts";
import { div, mul } from "../../kernels/pointwise/arithmetic.ts";
import type { LanguageModel, Scaling } from "../models/language_model.ts";
import { Linear, LinearLayer } from "../nn/linear.ts";
import type { Module } from "../nn/module.ts";
import { LayerNorm, RmsNorm } from "../nn/norm.ts";
import { TransposedLinear } from "../nn/transposed_linear.ts";

/** The weights of a model that were changed, and can be put back. */
export class MovedScales {
  readonly #model: LanguageModel;
  readonly #before = new Map<Tensor, Tensor>();

  /** Nothing is moved yet. */
  constructor(model: LanguageModel) {
    this.#model = model;
  }

  /**
   * Divides what `source` gives by factors, and multiplies the weights of its readers by them.
   *
   * @param scaling where
   * @param factors f32, one for each channel, above 0
   * @throws {TypeError} if one of the layers is quantized already
   */
  move({ source, readers }: Scaling, factors: Float32Array<ArrayBuffer>): void {
    const { device } = this.#model;
    const modules = new Map(this.#model.modules());
    device.scope(() =>
      noGrad(() => {
        const row = tensor(device, factors);
        const column = viewOf(row, [factors.length, 1]);
        for (const path of [source, ...readers]) modules.get(path)?.widen();
        this.#divide(source, modules.get(source), row, column);
        for (const path of readers) {
          const layer = modules.get(path);
          if (layer instanceof Linear) this.#set(layer.weight, mul(layer.weight, row));
          else if (layer instanceof TransposedLinear) {
            this.#set(layer.weight, mul(layer.weight, column));
          } else throw notPlain(path);
        }
      })
    );
  }

  #divide(path: string, module: Module | undefined, row: Tensor, column: Tensor): void {
    if (module instanceof RmsNorm) this.#set(module.weight, div(module.weight, row));
    else if (module instanceof LayerNorm || module instanceof TransposedLinear) {
      this.#set(module.weight, div(module.weight, row));
      if (module.bias) this.#set(module.bias, div(module.bias, row));
    } else if (module instanceof Linear) {
      this.#set(module.weight, div(module.weight, column));
      if (module.bias) this.#set(module.bias, div(module.bias, row));
    } else throw notPlain(path);
  }

  #set(weight: Tensor, value: Tensor): void {
    if (!this.#before.has(weight)) this.#before.set(weight, keptCopy(weight));
    this.#model.device.copy(value, weight);
  }

  /** Puts all weights back as they were. */
  restore(): void {
    for (const [weight, copy] of this.#before) this.#model.device.copy(copy, weight);
    this.commit();
  }

  /** Forgets how they were. */
  commit(): void {
    for (const copy of this.#before.values()) copy.dispose();
    this.#before.clear();
  }
}

function notPlain(path: string): TypeError {
  return new TypeError(
    `Cannot scale the channels of "${path}": wanted a layer with plain weights; load the model without quantize`,
  );
}

/** Whether every layer of a scaling is there with plain weights. */
export function canMove(model: LanguageModel, { source, readers }: Scaling): boolean {
  const modules = new Map(model.modules());
  return [source, ...readers].every((path) => {
    const module = modules.get(path);
    return !(module instanceof LinearLayer) || module instanceof Linear ||
      module instanceof TransposedLinear;
  });
}
