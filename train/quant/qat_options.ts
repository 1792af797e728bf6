/**
 * How a model is trained to be quantized.
 *
 * @module
 */
import { type AffineScheme, levelsOf } from "../../kernels/quant/affine.ts";
import type { InputRounding } from "../nn/input_rounding.ts";
import { GROUP_SIZE } from "./weight_only.ts";

/** How weights are rounded in quantization-aware training. */
export interface QatWeightOptions {
  /** Bits of a whole number, 2 to 8; 4 by default. Above 4 they are stored in 8. */
  readonly bits?: number;
  /**
   * By default "asymmetric" up to 4 bits and "symmetric" above, as `quantizeInteger` has it; symmetric where steps are
   * learnt, as LSQ has it.
   */
  readonly kind?: AffineScheme["kind"];
  /** Which whole numbers; see `AffineScheme`. Where a symmetric step is learnt, all of them: −8 to 7. */
  readonly levels?: AffineScheme["levels"];
  /** Which weights share a step: a group along a row by default, with more than 4 bits a channel, which is a whole row. */
  readonly share?: "tensor" | "channel" | "group";
  /** Weights of a group, 64 by default. If it does not divide a row, the row's last group is shorter. */
  readonly groupSize?: number;
  /** "range": the step follows from the weights' least and largest in each forward pass. "learnt": LSQ. "range" by default. */
  readonly step?: "range" | "learnt";
}

/** How inputs of layers are rounded in quantization-aware training. */
export interface QatActivationOptions {
  /** Bits of a whole number, 2 to 8; 8 by default. */
  readonly bits?: number;
  /** "asymmetric" by default. */
  readonly kind?: AffineScheme["kind"];
  /** Which whole numbers; see `AffineScheme`. */
  readonly levels?: AffineScheme["levels"];
  /**
   * "token": each token's own range, found when the layer runs. "observed": one range for all, the running mean of what the first
   * steps of training had, then frozen. "learnt": the same, then learnt as LSQ does it. "observed" by default.
   */
  readonly range?: "token" | "observed" | "learnt";
  /**
   * Ranges to begin with, by the paths of layers, rather than to observe any: those of layers whose ranges are of other whole numbers
   * are observed. By default those of the checkpoint that the model comes from, `model.inputRoundings`; an empty map for none.
   */
  readonly ranges?: ReadonlyMap<string, InputRounding>;
  /** Steps that are observed, while inputs are left as they are; 20 by default. Of each step, the first batch. */
  readonly observeSteps?: number;
  /** A batch's weight in the running mean, 0.1 by default. */
  readonly momentum?: number;
}

/** How a model is prepared for quantization-aware training. */
export interface QatOptions {
  /** How weights are rounded, or for each layer how: null leaves one as it is. 4 bits in groups of 64 by default. */
  readonly weights?: QatWeightOptions | ((path: string) => QatWeightOptions | null);
  /** How the same layers' inputs are rounded; not at all by default. */
  readonly activations?: QatActivationOptions;
}

/** Weight options with nothing left open. */
export interface CompleteQatWeights {
  readonly scheme: AffineScheme;
  readonly share: "tensor" | "channel" | "group";
  readonly groupSize: number;
  readonly learn: boolean;
}

/** Fills in what is left open. Throws a RangeError if an option makes no sense. */
export function completeWeights(options: QatWeightOptions): CompleteQatWeights {
  const { bits = 4, groupSize = GROUP_SIZE, step = "range" } = options;
  const learn = step === "learnt";
  const kind = options.kind ?? (learn || bits > 4 ? "symmetric" : "asymmetric");
  const levels = options.levels ?? (learn && kind === "symmetric" ? "signed" : undefined);
  const scheme: AffineScheme = { bits, kind, levels };
  levelsOf(scheme);
  if (!Number.isSafeInteger(groupSize) || groupSize < 1) {
    throw new RangeError(
      `Cannot quantize in groups of ${groupSize}: the size must be a whole number above 0`,
    );
  }
  const { share = options.groupSize === undefined && bits > 4 ? "channel" : "group" } = options;
  if (share !== "group" && options.groupSize !== undefined) {
    throw new RangeError(
      `Cannot share a step in groups of ${groupSize} and in a ${share}: leave groupSize out, or take share: "group"`,
    );
  }
  return { scheme, share, groupSize, learn };
}

/** Activation options with nothing left open. */
export interface CompleteQatActivations {
  readonly scheme: AffineScheme;
  readonly range: "token" | "observed" | "learnt";
  readonly observeSteps: number;
  readonly momentum: number;
  readonly ranges: ReadonlyMap<string, InputRounding>;
}

/** Fills in what is left open. Throws a RangeError if an option makes no sense. */
export function completeActivations(
  options: QatActivationOptions,
  known: ReadonlyMap<string, InputRounding> = new Map(),
): CompleteQatActivations {
  const { bits = 8, kind = "asymmetric", levels, range = "observed", ranges = known } = options;
  const { observeSteps = 20, momentum = 0.1 } = options;
  const scheme: AffineScheme = { bits, kind, levels };
  levelsOf(scheme);
  if (!Number.isSafeInteger(observeSteps) || observeSteps < 1) {
    throw new RangeError(
      `Cannot observe ${observeSteps} steps: wanted a whole number above 0; or take range: "token", which observes none`,
    );
  }
  if (!(momentum > 0 && momentum <= 1)) {
    throw new RangeError(
      `Cannot average with a momentum of ${momentum}: wanted above 0, at most 1`,
    );
  }
  return { scheme, range, observeSteps, momentum, ranges };
}
