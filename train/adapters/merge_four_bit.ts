/**
 * Merging an adapter into 4-bit weights, and what that costs.
 *
 * @module
 */
import { noGrad } from "../../core/autograd.ts";
import type { Tensor } from "../../core/tensor.ts";
import { mul, sub } from "../../kernels/pointwise/arithmetic.ts";
import { FourBitTensor } from "../../kernels/quant/four_bit.ts";
import { type FourBitOptions, quantizeFourBit } from "../../kernels/quant/four_bit_quantize.ts";
import { sum } from "../../kernels/reduce/sum.ts";
import type { LanguageModel } from "../models/language_model.ts";
import { type LinearLayer, QuantizedLinear } from "../nn/linear.ts";
import { LoraBranch } from "./lora_branch.ts";
import { lorasOn, mergeAdapter } from "./lora.ts";

/** What merging into 4 bits did to a layer. */
export interface MergeError {
  /** The layer's path. */
  readonly path: string;
  /** How many weights it has. */
  readonly weights: number;
  /** How far the adapter moved the weight: ‖merged − before‖ / ‖before‖. 0 where there was no adapter. */
  readonly update: number;
  /** How far 4 bits moved it then: ‖quantized − merged‖ / ‖merged‖. */
  readonly error: number;
  /**
   * The share of the adapter's move that is left along its own direction: 1 if all of it is, 0 if rounding took it back, which
   * happens where the model was in 4 bits before and the adapter moves weights by less than half a step. Null without a move.
   */
  readonly kept: number | null;
}

/** What happened between a weight `before`, with the adapter `merged`, and in 4 bits `after`. All are f32 of one shape. */
async function compare(
  before: Tensor,
  merged: Tensor,
  after: Tensor,
): Promise<Pick<MergeError, "update" | "error" | "kept">> {
  const sums = noGrad(() =>
    before.device.scope(() => {
      const update = sub(merged, before);
      const error = sub(after, merged);
      return [
        sum(mul(before, before)),
        sum(mul(merged, merged)),
        sum(mul(update, update)),
        sum(mul(error, error)),
        sum(mul(update, error)),
      ];
    })
  );
  const [own, whole, moved, lost, along] = await Promise.all(sums.map((t) => t.item()));
  for (const t of sums) t.dispose();
  const share = (part: number, of: number) => part === 0 ? 0 : Math.sqrt(part / of);
  return {
    update: share(moved, own),
    error: share(lost, whole),
    kept: moved === 0 ? null : 1 + along / moved,
  };
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

/** Quantizes a layer with the adapter on it, and tells what that did; the layer stays as it is. */
async function quantizeMerged(
  path: string,
  layer: LinearLayer,
  options: FourBitOptions,
): Promise<{ weight: FourBitTensor; error: MergeError }> {
  const before = layer.dense();
  const { branch } = layer;
  const merged = branch instanceof LoraBranch ? noGrad(() => branch.mergeInto(before)) : before;
  const weight = await quantizeFourBit(merged, options);
  const after = weight.dequantize();
  const error = { path, weights: before.size, ...await compare(before, merged, after) };
  after.dispose();
  if (merged !== before) merged.dispose();
  release(layer, before);
  return { weight, error };
}

/**
 * Merges every LoRA on a model for good, as `mergeAdapter` does, and quantizes the merged layers to 4 bits, and all others that
 * are not in these yet. NF4 rounds plain weights by some 9 %, and most adapters move them by far less; and weights that came out of
 * 4 bits fall back where they were, which undoes the adapter. The result tells it for each layer. Where it matters, keep the adapter beside the 4-bit model, or use `mergeAdapter`.
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
 * console.log(errors[0]); // { path: "model.layers.0.self_attn.q_proj", weights: 4096, update: 0, error: 0.09…, kept: null }
 * ```
 */
export async function mergeAdapterFourBit(
  model: LanguageModel,
  options: FourBitOptions = {},
): Promise<MergeError[]> {
  const loras = lorasOn(model);
  for (const lora of loras) if (lora.merged) lora.unmerge();
  const quantized = new Map<string, FourBitTensor>();
  const errors: MergeError[] = [];
  try {
    for (const [path, layer] of loras.length > 0 ? [...model.linearLayers()] : []) {
      if (!layer.branch && isIn(layer, options)) continue;
      const { weight, error } = await quantizeMerged(path, layer, options);
      quantized.set(path, weight);
      errors.push(error);
    }
    mergeAdapter(model);
  } catch (error) {
    for (const weight of quantized.values()) weight.dispose();
    throw error;
  }
  const layers = new Map(model.linearLayers());
  for (const [path, weight] of quantized) {
    const layer = layers.get(path)!;
    model.replaceLinear(path, new QuantizedLinear(weight, layer.bias));
    layer.dispose();
  }
  return errors;
}
