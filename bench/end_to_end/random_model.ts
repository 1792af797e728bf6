/**
 * Models of any size with random weights, drawn on the device and quantized one by one, so that a model in 32 bits never exists
 * whole.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { sizeOf } from "../../core/shape.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { cast } from "../../kernels/pointwise/cast.ts";
import { quantizeFourBit } from "../../kernels/quant/four_bit_quantize.ts";
import { INTEGER_BITS, IntegerTensor } from "../../kernels/quant/integer.ts";
import type { QuantizedTensor } from "../../kernels/quant/quantized_tensor.ts";
import type { Json } from "../../train/files/tokenizer.ts";
import type { WeightSpec } from "../../train/models/architecture.ts";
import { blueprintOf } from "../../train/models/architectures.ts";
import { wantsHalves } from "../../train/models/halves.ts";
import type { LanguageModel } from "../../train/models/language_model.ts";
import { Inputs } from "../case.ts";

/** What linear layers can be quantized to: NF4 with double quantization, as in QLoRA, INT8 by rows, or INT4 by groups of 64. */
export type DrawnType = "nf4" | "int8" | "int4";

/** What the weights are. */
export interface DrawOptions {
  /** The linear layers, by default plain. */
  readonly quantize?: DrawnType;
  /** "all" for full fine-tuning. */
  readonly trainable?: "all" | "none";
}

/** Weights that wait for their quantization hold at most so many bytes in 32 bits: waiting takes 10 ms, and is shared. */
const IN_FLIGHT = 256 << 20;

function draw(inputs: Inputs, { shape, role, spread = 1 }: WeightSpec, deviation: number): Tensor {
  const { device } = inputs;
  if (role === "norm") return tensor(device, new Float32Array(sizeOf(shape)).fill(1), shape);
  if (role === "bias") return zeros(device, shape);
  return inputs.floats(shape, spread * deviation);
}

/** A plain weight as a model has it that comes from a checkpoint of 16-bit floats: its numbers are halves, whatever it lies in. */
function asFromHalves(weight: Tensor, spec: WeightSpec, trainable: "all" | "none"): Tensor {
  const { device } = weight;
  const half = device.keep(cast(weight, "f16"));
  weight.dispose();
  if (wantsHalves(device, spec, { trainable })) return half;
  const wide = device.keep(cast(half, "f32"));
  half.dispose();
  return wide;
}

/** Weights in integers, whose codes are drawn and not rounded to: every bit is random, and every scale the same. */
function drawIntegers(
  inputs: Inputs,
  [rows, columns]: readonly [number, number],
  type: "int8" | "int4",
  deviation: number,
): IntegerTensor {
  const { device } = inputs;
  const bits = INTEGER_BITS[type];
  const groupSize = type === "int8" ? columns : 64;
  const groups = Math.ceil(columns / groupSize);
  // Even numbers of this deviation reach √3 times as far. INT4's zero point is not the middle, as in most groups of real weights.
  const scale = 2 * Math.sqrt(3) * deviation / (2 ** bits - 1);
  const scales = new Float32Array(2 * rows * groups);
  for (let i = 0; i < scales.length; i += 2) {
    scales[i] = scale;
    scales[i + 1] = type === "int8" ? 128 : 7;
  }
  return new IntegerTensor(
    [rows, columns],
    type,
    groupSize,
    device.keep(inputs.bits([Math.ceil(rows * columns * bits / 32)])),
    device.keep(tensor(device, scales, [rows, groups, 2])),
    type === "int8" ? 0 : bits,
  );
}

/**
 * A model with random weights: even numbers of deviation `initializer_range`, gains 1, biases 0. With the torch_dtype float16 all are
 * 16-bit floats, and plain matrices lie as `loadModel` keeps them.
 *
 * @param device where it shall live; what its pool holds free is given back
 * @param json the content of a config.json
 * @param options how it is quantized, and what is trained
 */
export async function drawModel(
  device: Device,
  json: Json,
  { quantize, trainable = "none" }: DrawOptions = {},
): Promise<LanguageModel> {
  const blueprint = blueprintOf(json, "the bench's config");
  const deviation = blueprint.config.initializerRange;
  const inputs = new Inputs(device, 1);
  const weights = new Map<string, Tensor | QuantizedTensor>();
  let [waiting, bytes]: [Promise<void>[], number] = [[], 0];
  const wait = async () => {
    await Promise.all(waiting);
    [waiting, bytes] = [[], 0];
  };
  for (const [name, spec] of blueprint.weights) {
    const isQuantized = quantize !== undefined && spec.role === "linear";
    // In 4 bits all lie as [outFeatures, inFeatures].
    const shape = isQuantized && spec.transposed ? spec.shape.toReversed() : spec.shape;
    if (isQuantized && quantize !== "nf4") {
      weights.set(name, drawIntegers(inputs, [shape[0], shape[1]], quantize, deviation));
      continue;
    }
    if (bytes + 4 * sizeOf(shape) > IN_FLIGHT) await wait();
    let weight = device.keep(draw(inputs, { ...spec, shape }, deviation));
    if (!isQuantized) {
      if (json.torch_dtype === "float16") weight = asFromHalves(weight, spec, trainable);
      weight.requiresGrad = trainable === "all";
      weights.set(name, weight);
      continue;
    }
    bytes += weight.bytes;
    const plain = weight;
    waiting.push(
      quantizeFourBit(plain, { type: "nf4", doubleQuant: true }).then((own) => {
        weights.set(name, own);
        plain.dispose();
      }),
    );
  }
  await wait();
  await device.finish();
  device.trim();
  return blueprint.create(device, json, weights);
}
