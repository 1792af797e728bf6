/**
 * Merging an adapter into 4-bit weights, and what that costs.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import type { Tensor } from "../../core/tensor.ts";
import { mul, sub } from "../../kernels/pointwise/arithmetic.ts";
import {
  type FourBitOptions,
  FourBitTensor,
  quantizeFourBit,
} from "../../kernels/quant/four_bit.ts";
import { sum } from "../../kernels/reduce/sum.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import type { LoraBranch } from "./lora_branch.ts";
import { lorasOn, mergeAdapter } from "./lora.ts";

/** What merging into 4 bits did to a layer. */
export interface MergeError {
  /** The layer's path. */
  readonly path: string;
  /** How many weights it has. */
  readonly weights: number;
  /** How far the adapter moved the weight: ‖merged − before‖ / ‖before‖. 0 where there was no adapter. */
  readonly update: number;
  /** How far 4 bits moved it then: ‖quantized − merged‖ / ‖merged‖. Larger than `update`, it drowns the adapter. */
  readonly error: number;
}

/** ‖a − b‖ / ‖b‖. */
async function distance(device: Device, a: Tensor, b: Tensor): Promise<number> {
  const sums = noGrad(() =>
    device.scope(() => {
      const apart = sub(a, b);
      return [sum(mul(apart, apart)), sum(mul(b, b))];
    })
  );
  const [apart, own] = await Promise.all(sums.map((t) => t.item()));
  for (const t of sums) t.dispose();
  return apart === 0 ? 0 : Math.sqrt(apart / own);
}

/** Whether a layer is in these 4 bits already. */
function isIn(layer: LinearLayer, options: FourBitOptions): boolean {
  if (!(layer instanceof QuantizedLinear && layer.weight instanceof FourBitTensor)) return false;
  const { type = "nf4", blockSize = 64, doubleQuant = false } = options;
  const { weight } = layer;
  return weight.type === type && weight.blockSize === blockSize &&
    (weight.scales.kind === "nested") === doubleQuant;
}

/** Frees a weight that was decoded for the caller. */
function release(layer: LinearLayer, weight: Tensor): void {
  if (![...layer.tensors()].some(([, own]) => own === weight)) weight.dispose();
}

/** How far a branch moves its layer's weight. */
async function updateOf(layer: LinearLayer, branch: LoraBranch): Promise<number> {
  const weight = layer.dense();
  const merged = noGrad(() => branch.mergeInto(weight));
  const update = await distance(weight.device, merged, weight);
  merged.dispose();
  release(layer, weight);
  return update;
}

/**
 * Merges every LoRA on a model for good, as `mergeAdapter` does, and quantizes the merged layers to 4 bits, and all others that
 * are not in these yet. 4 bits round the weights by some 9 %, and most adapters move them by less: much of what was learned can be
 * lost, which the result tells for each layer. Where that matters, keep the adapter beside the 4-bit model, or use `mergeAdapter`.
 *
 * @param model the model, in 32 bits or quantized
 * @param options type, block size, double quantization
 * @returns what the adapter and the rounding did to each of the layers that were quantized
 * @throws {TypeError} if the model has no LoRA
 * @throws {RangeError} if a merged weight holds NaN or infinity
 *
 * @example
 * ```ts
 * import { addLora, mergeAdapterFourBit, openDevice, randomModel } from "@nibble/nibble";
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
 * addLora(model, { r: 4 });
 * const errors = await mergeAdapterFourBit(model, { type: "nf4", doubleQuant: true });
 * console.log(errors[0]); // { path: "model.layers.0.self_attn.q_proj", weights: 4096, update: 0, error: 0.09… }
 * ```
 */
export async function mergeAdapterFourBit(
  model: LanguageModel,
  options: FourBitOptions = {},
): Promise<MergeError[]> {
  const { device } = model;
  const updates = new Map<string, number>();
  for (const lora of lorasOn(model)) {
    if (lora.merged) lora.unmerge();
    const layers = new Map(model.linearLayers());
    for (const [path, branch] of lora.branches) {
      updates.set(path, await updateOf(layers.get(path)!, branch));
    }
  }
  mergeAdapter(model);
  const errors: MergeError[] = [];
  for (const [path, layer] of [...model.linearLayers()]) {
    if (isIn(layer, options)) continue;
    const weight = layer.dense();
    const quantized = await quantizeFourBit(weight, options);
    const decoded = quantized.dequantize();
    errors.push({
      path,
      weights: weight.size,
      update: updates.get(path) ?? 0,
      error: await distance(device, decoded, weight),
    });
    decoded.dispose();
    release(layer, weight);
    layer.dispose();
    model.replaceLinear(path, new QuantizedLinear(quantized, layer.bias));
  }
  return errors;
}
