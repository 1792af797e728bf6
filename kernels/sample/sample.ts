/**
 * Choosing tokens on the GPU, so that generation never waits for the host.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import { constant } from "../../core/constant.ts";
import type { Device } from "../../core/device.ts";
import { kernel } from "../../core/kernel.ts";
import randomCode from "../../core/random.wgsl" with { type: "text" };
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { ROWS_WGSL } from "../rows.ts";
import { sampleMany, type SampleSettings } from "./sample_many.ts";
import code from "./sample.wgsl" with { type: "text" };

const sampleKernel = kernel("sample", randomCode + ROWS_WGSL + code);

/** WebGPU's limit on each dimension of a grid. */
const MOST_ROWS = 65_535;

/** How tokens are chosen. */
export interface SampleOptions {
  /** 0 (the default) takes the likeliest token; 1 draws from the model's distribution, less is sharper. */
  readonly temperature?: number;
  /** Draw from the k likeliest tokens only; 0 for all. Ties with the k-th are kept. */
  readonly topK?: number;
  /** Draw from the fewest tokens whose probabilities sum to p; 1 for all. */
  readonly topP?: number;
}

/** Throws a RangeError unless the options make sense. */
export function checkSampleOptions({ temperature = 0, topK = 0, topP = 1 }: SampleOptions): void {
  if (!(temperature >= 0)) {
    throw new RangeError(`Cannot sample at temperature ${temperature}: it must be at least 0`);
  }
  if (!Number.isInteger(topK) || topK < 0) {
    throw new RangeError(
      `Cannot sample from the top ${topK}: it must be a whole number, 0 for all`,
    );
  }
  if (!(topP > 0 && topP <= 1)) {
    throw new RangeError(`Cannot sample with topP ${topP}: it must be above 0 and at most 1`);
  }
}

/** llvmpipe leaves a shader's loops after 65,536 rounds in all, without a word. */
const MOST_ROUNDS = 65_000;

/** Whether a row takes many workgroups: on a GPU, and where software Vulkan would need too many rounds with one. */
function wantsMany(device: Device, classes: number, settings: SampleSettings): boolean {
  if (device.adapter.type === "gpu") return true;
  const { topK, topP } = settings;
  const walks = 2 + (topK > 0 ? 32 : 0) + (topP < 1 ? 33 : 0);
  return settings.temperature > 0 && walks * Math.ceil(classes / 8) > MOST_ROUNDS;
}

/**
 * Chooses a token for each row of logits.
 *
 * @param logits f32 [rows, classes]
 * @param options temperature, topK, topP
 * @param state u32 [2]: seed and step, for temperatures above 0. The same state gives the same tokens on every machine, but for
 * rounding in `log`. With u32 [2 + rows], each row's stream follows, by default its index: a row draws the same wherever it stands
 * @returns i32 [rows]
 *
 * @example
 * ```ts
 * import { openDevice, sample, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const logits = tensor(device, new Float32Array([0, 3, 1]), [1, 3]);
 * console.log(await sample(logits).read()); // Int32Array(1) [ 1 ]
 * ```
 */
export function sample(logits: Tensor, options: SampleOptions = {}, state?: Tensor): Tensor {
  checkSampleOptions(options);
  checkDType("sample", logits, "f32", "logits");
  const { temperature = 0, topK = 0, topP = 1 } = options;
  if (temperature > 0 && !state) {
    throw new TypeError(
      "Cannot sample at a temperature above 0 without a state: pass seed and step",
    );
  }
  const { device } = logits;
  const [rows, classes] = rowsAndColumns(logits);
  const hasStreams = state !== undefined && state.size > 2;
  if (hasStreams) checkIsShape("sample", state, [2 + rows], "the state with streams");
  const words = state ?? constant(device, "no state", () => new Uint32Array(2));
  const settings = { temperature, topK, topP };
  if (rows <= MOST_ROWS && wantsMany(device, classes, settings)) {
    return sampleMany(logits, settings, words);
  }
  const out = empty(device, [rows], "i32");
  const params = uniform(
    rows,
    classes,
    topK,
    floatBits(topP),
    floatBits(temperature),
    hasStreams ? 1 : 0,
  );
  const bindings = [logits, words, out, params];
  device.dispatch(sampleKernel, bindings, [rows], { LANES: 8, ROWS: 1 });
  return out;
}
