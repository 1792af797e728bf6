/** `nibble inspect --weights`: how the matrices of a checkpoint are spread. */
import { isFourBit } from "../train/files/bitsandbytes.ts";
import type { TensorSource } from "../train/files/safetensors.ts";
import { integerWeightOf, isInteger } from "../train/files/stored_integer.ts";
import { NORMAL_WITHIN, type WeightShape, WeightShapes } from "../train/quant/weight_shape.ts";
import { count, percent, printLine, significant, table } from "./print.ts";

/** A kind of layer, such as `q_proj`, and how its weights are spread. */
export interface ShapeOfType extends WeightShape {
  /** The last part of the layers' names; "all" for all together. */
  readonly type: string;
}

/** The quantized weight that a tensor is, or is a part of; null if it is none. */
export function quantizedWeightOf(source: TensorSource, name: string): string | null {
  return isFourBit(source, name) ? name : integerWeightOf(source, name);
}

/** How many matrices are quantized: the file does not have their numbers as they are. */
export function quantizedIn(source: TensorSource): number {
  const weights = [...source.entries.keys()].map((name) => quantizedWeightOf(source, name));
  return new Set(weights.filter((name) => name !== null)).size;
}

/** Matrices whose numbers the file has as they are. */
function* plainMatrices(source: TensorSource): Generator<string> {
  for (const [name, { shape }] of source.entries) {
    if (shape.length !== 2 || !name.endsWith(".weight")) continue;
    if (!isFourBit(source, name) && !isInteger(source, name)) yield name;
  }
}

/** The spread of the matrices by type, and of all. One matrix at a time is in memory. */
export async function weightShapesOf(source: TensorSource, path: string): Promise<ShapeOfType[]> {
  const types = new Map<string, WeightShapes>();
  const all = new WeightShapes();
  for (const name of plainMatrices(source)) {
    const type = name.split(".").at(-2)!;
    const numbers = await source.readFloats(name);
    if (!types.has(type)) types.set(type, new WeightShapes());
    types.get(type)!.add(numbers);
    all.add(numbers);
  }
  if (types.size === 0) {
    throw new RangeError(
      `Cannot describe the weights of "${path}": it has no matrix in plain numbers; take the model that it was made from`,
    );
  }
  const found = [...types].map(([type, own]) => ({ type, ...own.report() }));
  return [...found, { type: "all", ...all.report() }];
}

/** A bar for each two bins of a histogram. */
function bars({ histogram }: WeightShape): string {
  const pairs = Array.from(
    { length: histogram.length / 2 },
    (_, i) => histogram[2 * i] + histogram[2 * i + 1],
  );
  const most = Math.max(...pairs);
  return pairs.map((share, i) => {
    const from = -4 + i / 2;
    const label = `${i === 0 ? "below" : i === pairs.length - 1 ? "above" : "from"} ${
      (i === 0 ? from + 0.5 : from).toFixed(1)
    } σ`;
    return `${label.padStart(12)} ${"█".repeat(Math.round(40 * share / most)).padEnd(40)} ${
      percent(share)
    }`;
  }).join("\n");
}

/** Prints them, and that some matrices are not among them, if so. */
export function printWeightShapes(shapes: readonly ShapeOfType[], quantized: number): void {
  printLine(table(
    ["weights of", "matrices", "numbers", "σ", "largest", "within 1 σ", "2 σ", "3 σ"]
      .concat("kurtosis − 3"),
    [
      ...shapes.map((own) => [
        own.type,
        own.matrices,
        count(own.weights),
        significant(own.deviation),
        `${own.largest.toFixed(1)} σ`,
        ...own.within.map((share) => percent(share)),
        own.excessKurtosis.toFixed(2),
      ]),
      ["a bell", "", "", "", "", ...NORMAL_WITHIN.map((share) => percent(share)), "0.00"],
    ],
    { right: [1, 2, 3, 4, 5, 6, 7, 8] },
  ));
  const all = shapes.at(-1)!;
  printLine(`\nAll, by deviations of their own matrix\n${bars(all)}\n`);
  printLine(
    `${percent(all.within[1])} of the weights lie within 2 σ, and the largest at ${
      all.largest.toFixed(1)
    } σ decides the scale of all that share one: few bits do for most, and outliers cost. ` +
      "Scales for groups, or a tenth of the channels in 16 bits (int4+10%), keep them apart",
  );
  if (quantized === 0) return;
  printLine(
    `Not among these: ${quantized} matrices that are quantized; take the model that it was made from`,
  );
}
