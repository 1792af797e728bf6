/**
 * Adapters that began with a part of the weights, as plain LoRA.
 *
 * @module
 */
import type { TensorData } from "../files/safetensors.ts";
import type { CompleteLora } from "./lora_options.ts";
import { peftName, type TakenPart } from "./start.ts";

/** The options of the plain LoRA that computes the same: of twice the rank, with the same scaling. */
export function plainOptions(options: CompleteLora): CompleteLora {
  const factor = options.useRslora ? Math.SQRT2 : 2;
  const scaled = (patterns: Readonly<Record<string, number>>, by: number) =>
    Object.fromEntries(Object.entries(patterns).map(([key, value]) => [key, by * value]));
  return {
    ...options,
    init: true,
    r: 2 * options.r,
    alpha: factor * options.alpha,
    rankPattern: scaled(options.rankPattern, 2),
    alphaPattern: scaled(options.alphaPattern, factor),
  };
}

/** `first` [rows, columns] above `second`. */
function above({ data, shape: [rows, columns] }: TensorData, second: Float32Array): TensorData {
  const both = new Float32Array(2 * second.length);
  both.set(data as Float32Array);
  both.set(second, second.length);
  return { dtype: "F32", shape: [2 * rows, columns], data: both };
}

/** `first` [rows, columns] beside −`second`. */
function beside({ data, shape: [rows, columns] }: TensorData, second: Float32Array): TensorData {
  const first = data as Float32Array;
  const both = new Float32Array(2 * first.length);
  for (let i = 0; i < rows; i++) {
    for (let j = 0; j < columns; j++) {
      both[2 * i * columns + j] = first[i * columns + j];
      both[(2 * i + 1) * columns + j] = -second[i * columns + j];
    }
  }
  return { dtype: "F32", shape: [rows, 2 * columns], data: both };
}

/**
 * Turns A and B of an adapter that began with a part of the weights into those of plain LoRA on the whole weights:
 * `W − s·B₀·A₀ + s·B·A = W + s·[B, −B₀]·[A; A₀]`.
 *
 * @param tensors the adapter's tensors by PEFT's names; A and B are replaced
 * @param parts what was taken out of the weights
 */
export function makePlain(
  tensors: Map<string, TensorData>,
  parts: ReadonlyMap<string, TakenPart>,
): void {
  for (const [path, { a, b }] of parts) {
    const names = [peftName(path, "lora_A.weight"), peftName(path, "lora_B.weight")];
    tensors.set(names[0], above(tensors.get(names[0])!, a));
    tensors.set(names[1], beside(tensors.get(names[1])!, b));
  }
}
