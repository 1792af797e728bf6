/**
 * GPTQ over a model: each layer is quantized so that its outputs on some text stay what they were.
 *
 * @module
 */
import type { Device } from "../../core/device.ts";
import { type Tensor, tensor, viewOf, zeros } from "../../core/tensor.ts";
import type { AffineScheme } from "../../kernels/quant/affine.ts";
import { gptq } from "../../kernels/quant/gptq.ts";
import { integerFromCodes } from "../../kernels/quant/integer_codes.ts";
import type { IntegerTensor } from "../../kernels/quant/integer.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import type { LanguageModel } from "../models/language_model.ts";
import {
  type CalibrationText,
  calibrationWindows,
  inputGroups,
  watchInputs,
} from "./calibration.ts";
import { DAMPING, inverseFactor } from "./inverse_factor.ts";
import { checkPlain, denseWeight, GROUP_SIZE, readCodes, ReplacedLayers } from "./weight_only.ts";

/** Bits of a whole number. */
export type GptqBits = 8 | 4 | 3 | 2;

/** How GPTQ goes about it. */
export interface GptqOptions {
  /** What the model reads: some thousand tokens, not of the text that it is tested on. */
  readonly text: CalibrationText;
  /** 4 by default; 8 is by rows and symmetric. */
  readonly bits?: GptqBits;
  /** Weights along a row that share a scale: 64 by default, and with 8 bits the row. */
  readonly groupSize?: number;
  /** The share of the mean diagonal that is added to the Hessian: 0.01 by default. */
  readonly damping?: number;
  /** Bytes of Hessians that are in memory at a time; the text is read once for each portion. 256 MB by default. */
  readonly memory?: number;
  /** Told after each layer. */
  readonly onProgress?: (done: number, total: number) => void;
}

/** Input groups in portions whose Hessians fit the memory, in the order of the model. */
function portionsOf(groups: readonly string[][], size: (path: string) => number, memory: number) {
  const portions: string[][][] = [];
  let bytes = Infinity;
  for (const group of groups) {
    const own = 4 * size(group[0]) ** 2;
    if (bytes + own > memory) {
      portions.push([]);
      bytes = 0;
    }
    portions.at(-1)!.push(group);
    bytes += own;
  }
  return portions;
}

/** XᵀX of what each group of layers reads, f32 [inFeatures, inFeatures]. */
async function hessiansOf(
  model: LanguageModel,
  groups: readonly string[][],
  text: CalibrationText,
): Promise<Map<string, Tensor>> {
  const { device } = model;
  const sums = new Map<string, Tensor>();
  const paths = new Set(groups.flat());
  await watchInputs(model, calibrationWindows(model, text), paths, ([path], x) => {
    const columns = x.shape.at(-1)!;
    const flat = viewOf(x, [x.size / columns, columns]);
    const before = sums.get(path);
    sums.set(path, device.keep(matmul(flat, flat, { transposeA: true, add: before })));
    before?.dispose();
  });
  return sums;
}

/** One layer's weight by GPTQ. Columns that no input used are set to 0 first, as their weights never matter. */
async function quantizeOne(
  device: Device,
  weight: Tensor,
  factor: Tensor,
  bits: GptqBits,
  groupSize: number,
): Promise<IntegerTensor> {
  const scheme: AffineScheme = { bits, kind: bits === 8 ? "symmetric" : "asymmetric" };
  const made = device.scope(() => gptq(weight, factor, scheme, groupSize));
  device.flush();
  const [rows, columns] = weight.shape;
  const [turned, pairs] = await Promise.all([readCodes(made.codes), made.scales.read()]);
  made.codes.dispose();
  made.scales.dispose();
  const codes = new Uint8Array(rows * columns);
  // Stored 8-bit codes are 128 higher than the numbers, those of the kernel 127.
  const shift = bits === 8 ? 1 : 0;
  for (let c = 0; c < columns; c++) {
    for (let r = 0; r < rows; r++) codes[r * columns + c] = turned[c * rows + r] + shift;
  }
  const groups = Math.ceil(columns / groupSize);
  const scales = new Float32Array(2 * rows * groups);
  for (let g = 0; g < groups; g++) {
    for (let r = 0; r < rows; r++) {
      const [to, from] = [2 * (r * groups + g), 2 * (g * rows + r)];
      scales[to] = pairs[from];
      scales[to + 1] = bits === 8 ? 128 : pairs[from + 1];
    }
  }
  return integerFromCodes(device, [rows, columns], {
    type: `int${bits}`,
    groupSize,
    codes,
    scales,
  });
}

/**
 * Quantizes the linear layers of a model by GPTQ (Frantar et al., arXiv 2210.17323), in place. Layers are taken in portions, and
 * each portion sees what the layers before it make of the text when they are quantized already.
 *
 * @param model a model with plain weights
 * @param options the text, bits, groups
 * @returns what was replaced: `commit()` frees the plain weights, `restore()` puts them back
 * @throws {RangeError} if there is too little text, or an activation is not finite
 * @throws {TypeError} if weights are quantized already
 */
export async function gptqLayers(
  model: LanguageModel,
  options: GptqOptions,
): Promise<ReplacedLayers> {
  const { device } = model;
  const { text, bits = 4, damping = DAMPING, memory = 256 << 20, onProgress } = options;
  checkPlain(model, "quantize by GPTQ");
  const replaced = new ReplacedLayers(model);
  const columnsOf = (path: string) => replaced.layer(path).shape[1];
  const groups = await inputGroups(model);
  let [done, total] = [0, groups.flat().length];
  try {
    for (const portion of portionsOf(groups, columnsOf, memory)) {
      const hessians = await hessiansOf(model, portion, text);
      for (const group of portion) {
        const columns = columnsOf(group[0]);
        const hessian = hessians.get(group[0]) ?? zeros(device, [columns, columns]);
        const numbers = await hessian.read() as Float32Array;
        hessian.dispose();
        const factor = device.keep(
          tensor(device, factorOf(numbers, columns, damping, group[0]), [columns, columns]),
        );
        const groupSize = options.groupSize ?? (bits === 8 ? columns : GROUP_SIZE);
        for (const path of group) {
          const dense = denseWeight(replaced.layer(path));
          const made = await quantizeOne(device, dense.weight, factor, bits, groupSize);
          if (dense.own) dense.weight.dispose();
          replaced.replace(path, made);
          onProgress?.(++done, total);
        }
        factor.dispose();
      }
    }
  } catch (error) {
    replaced.restore();
    throw error;
  }
  return replaced;
}

function factorOf(hessian: Float32Array, n: number, damping: number, path: string) {
  if (!hessian.every(Number.isFinite)) {
    throw new RangeError(
      `Cannot quantize "${path}" by GPTQ: what it reads has NaN or infinity in it; ` +
        "a model that gives such activations is broken before it is quantized",
    );
  }
  return inverseFactor(hessian, n, damping);
}
