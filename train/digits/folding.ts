/**
 * What folding a batch normalization does to the ranges of a layer's weights.
 *
 * @module
 */
import type { Tensor } from "../../core/tensor.ts";
import { foldBatchNorm } from "../quant/batch_norm.ts";
import { roundWeights } from "../quant/round_weights.ts";
import type { DigitKind, DigitNetwork, NormalizedLayer } from "./network.ts";

/** A figure of a layer as it was trained, and of the layer with its normalization folded in. */
export interface ApartAndFolded {
  /** As it was trained. */
  readonly apart: number;
  /** Folded. */
  readonly folded: number;
}

/** What folding does to a layer's weights, the mean over seeds. */
export interface FoldingResult {
  /** Which network. */
  readonly network: DigitKind;
  /** Which of its layers, from 0. */
  readonly layer: number;
  /** The largest of the channels' largest magnitudes, as a multiple of the smallest, before folding and after. */
  readonly spread: ApartAndFolded;
  /**
   * The signal-to-noise ratio of the weights in INT8, in decibels, as the layer's output sees it: the mean over channels, which are
   * normalized and so count alike.
   */
  readonly sqnr: {
    readonly perTensor: ApartAndFolded;
    readonly perChannel: ApartAndFolded;
  };
}

/** Sums of the squares of a signal, and of its changes. */
export class Noise {
  #signal = 0;
  #noise = 0;

  /** Adds a part of the signal, as it was and as it became. */
  add(before: ArrayLike<number>, after: ArrayLike<number>): void {
    for (let i = 0; i < before.length; i++) {
      this.#signal += before[i] ** 2;
      this.#noise += (after[i] - before[i]) ** 2;
    }
  }

  /** The changes' power as a share of the signal's; 0 without any. */
  get share(): number {
    return this.#noise === 0 ? 0 : this.#noise / this.#signal;
  }

  /** The same the other way round, in decibels; null without any changes. */
  get decibels(): number | null {
    return this.#noise === 0 ? null : -10 * Math.log10(this.share);
  }
}

/** The mean of some numbers. */
export function mean(numbers: readonly number[]): number {
  return numbers.reduce((a, b) => a + b, 0) / numbers.length;
}

/** The rows of a matrix. */
function rowsOf(numbers: Float32Array, rows: number): Float32Array[] {
  const each = numbers.length / rows;
  return Array.from({ length: rows }, (_, i) => numbers.subarray(i * each, (i + 1) * each));
}

/** The largest magnitudes of channels against each other, and how well INT8 keeps channels. */
async function weightFigures(
  weight: Tensor,
): Promise<{ spread: number; perTensor: number; perChannel: number }> {
  const { device } = weight;
  const channels = weight.shape[0];
  const before = rowsOf(await weight.read() as Float32Array, channels);
  const magnitudes = before.map((row) => row.reduce((most, w) => Math.max(most, Math.abs(w)), 0));
  const sqnrOf = async (per: "tensor" | "channel") => {
    const rounded = device.scope(() => roundWeights(weight, { bits: 8, per }).weight);
    const after = rowsOf(await rounded.read() as Float32Array, channels);
    rounded.dispose();
    const shares = before.map((row, c) => {
      const noise = new Noise();
      noise.add(row, after[c]);
      return noise.share;
    });
    return -10 * Math.log10(mean(shares));
  };
  return {
    spread: Math.max(...magnitudes) / Math.min(...magnitudes),
    perTensor: await sqnrOf("tensor"),
    perChannel: await sqnrOf("channel"),
  };
}

/** What folding does to each layer of a network. */
export async function foldingOf(network: DigitNetwork): Promise<FoldingResult[]> {
  const results: FoldingResult[] = [];
  for (const { layer, norm } of network.units as NormalizedLayer[]) {
    const whole = await foldBatchNorm(layer, norm);
    const [apart, folded] = [await weightFigures(layer.weight), await weightFigures(whole.weight)];
    whole.weight.dispose();
    whole.bias!.dispose();
    const both = (name: keyof typeof apart) => ({ apart: apart[name], folded: folded[name] });
    results.push({
      network: network.kind,
      layer: results.length,
      spread: both("spread"),
      sqnr: { perTensor: both("perTensor"), perChannel: both("perChannel") },
    });
  }
  return results;
}

/** The mean of results of the same layer, number by number. */
export function meanFolding(results: readonly FoldingResult[]): FoldingResult {
  const of = (take: (result: FoldingResult) => ApartAndFolded) => ({
    apart: mean(results.map((result) => take(result).apart)),
    folded: mean(results.map((result) => take(result).folded)),
  });
  return {
    ...results[0],
    spread: of(({ spread }) => spread),
    sqnr: {
      perTensor: of(({ sqnr }) => sqnr.perTensor),
      perChannel: of(({ sqnr }) => sqnr.perChannel),
    },
  };
}
