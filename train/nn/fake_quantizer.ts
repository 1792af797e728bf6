/**
 * What rounds weights and inputs of linear layers in quantization-aware training: where steps come from, and how they are learnt.
 *
 * @module
 */
import { kept, recomputable } from "../../core/autograd.ts";
import type { Device } from "../../core/device.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { type AffineParameters, type AffineScheme, levelsOf } from "../../kernels/quant/affine.ts";
import { fakeQuantize } from "../../kernels/quant/fake_quant.ts";
import {
  type GroupGrid,
  groupRanges,
  type ObserveOptions,
  observeRange,
  rangeGrid,
  type RangeState,
  totalRange,
} from "../../kernels/quant/group_grid.ts";
import { logStep } from "../../kernels/quant/log_step.ts";
import type { Named } from "./module.ts";

/** An optimizer's move is this share of a step for a weight of a tenth, which most are below: steps move as fast as weights do. */
const RATE = 10;

/**
 * Steps and zero points that are learnt, with LSQ's gradients (Esser et al., arXiv 1902.08153; zeros: Bhalgat et al., arXiv
 * 2004.09576). What is trained is the logarithm of a step's growth, and a zero point's move as a share of all levels, both divided by
 * `RATE`, so that one learning rate fits weights, steps and zeros. Both have one axis: weight decay leaves such parameters alone.
 */
export class LearntGrid {
  /** f32 [groups]: the logarithm of how far the step has grown, divided by RATE; 0 to begin with. */
  readonly logStep: Tensor;
  /** f32 [groups]: how far the zero point has moved, as a share of the levels divided by RATE; null where it stays. */
  readonly zero: Tensor | null;
  readonly #levels: number;

  /** For so many groups; the zero point is learnt where the scheme is asymmetric. */
  constructor(device: Device, groups: number, scheme: AffineScheme) {
    const { least, most } = levelsOf(scheme);
    this.#levels = most - least;
    const make = () => {
      const t = device.keep(zeros(device, [groups]));
      t.requiresGrad = true;
      return t;
    };
    this.logStep = make();
    this.zero = scheme.kind === "asymmetric" ? make() : null;
  }

  /** The grid as it was learnt, from that to begin with. */
  of({ scales, zeros }: GroupGrid): GroupGrid {
    const { shape } = scales;
    return {
      scales: logStep(scales, scale(reshape(this.logStep, shape), RATE)),
      zeros: this.zero ? add(zeros, scale(reshape(this.zero, shape), RATE * this.#levels)) : zeros,
    };
  }

  /** What is trained, by names behind `prefix`. */
  *tensors(prefix: string): Generator<Named<Tensor>> {
    yield [`${prefix}_log_step`, this.logStep];
    if (this.zero) yield [`${prefix}_zero`, this.zero];
  }

  /** Frees them. */
  dispose(): void {
    this.logStep.dispose();
    this.zero?.dispose();
  }
}

/** LSQ's factor of the gradients of a step that `numbers` numbers share. */
function gradientFactor(numbers: number, { most, least }: { most: number; least: number }): number {
  return 1 / Math.sqrt(numbers * Math.max(most, (most - least) / 2));
}

/** Numbers of a weight that share a step. */
export type Share = { readonly kind: "tensor" } | { readonly kind: "group"; readonly size: number };

/** Rounds a weight. Its steps follow from the weight itself each time, or are learnt. */
export class WeightQuantizer {
  /** The whole numbers. */
  readonly scheme: AffineScheme;
  /** Which weights share a step. */
  readonly share: Share;
  readonly #learnt: { readonly base: GroupGrid; readonly grid: LearntGrid } | null;

  /** With `base`, the steps are learnt, and begin there: f32 [1], or [rows, groups]. */
  constructor(scheme: AffineScheme, share: Share, base: GroupGrid | null = null) {
    this.scheme = scheme;
    this.share = share;
    const grid = base && new LearntGrid(base.scales.device, base.scales.size, scheme);
    this.#learnt = base && grid && { base, grid };
  }

  /** Whether steps are learnt. */
  get learns(): boolean {
    return this.#learnt !== null;
  }

  /** Scales and zeros for a weight f32 [rows, columns]: [1], or [rows, groups]. */
  grid(weight: Tensor): GroupGrid {
    if (this.#learnt) return this.#learnt.grid.of(this.#learnt.base);
    return rangesOf(weight, this.scheme, this.share);
  }

  /** The weight rounded and decoded, with gradients. */
  apply(weight: Tensor, { scales, zeros }: GroupGrid = this.grid(weight)): Tensor {
    const levels = levelsOf(this.scheme);
    return fakeQuantize(weight, scales, zeros, {
      ...levels,
      gradientFactor: gradientFactor(weight.size / scales.size, levels),
      groupSize: this.share.kind === "group" ? this.share.size : undefined,
    });
  }

  /** What is trained. */
  *tensors(): Generator<Named<Tensor>> {
    if (this.#learnt) yield* this.#learnt.grid.tensors("weight");
  }

  /** Whether a tensor is the quantizer's own, to be left alone by who takes a grid. */
  holds(t: Tensor): boolean {
    return this.#learnt?.base.zeros === t;
  }

  /** Frees what it holds. */
  dispose(): void {
    if (!this.#learnt) return;
    this.#learnt.base.scales.dispose();
    this.#learnt.base.zeros.dispose();
    this.#learnt.grid.dispose();
  }
}

/** Scales and zeros from the least and the largest weight of each group. */
export function rangesOf(weight: Tensor, scheme: AffineScheme, share: Share): GroupGrid {
  return share.kind === "tensor"
    ? rangeGrid(totalRange(weight), scheme, [1])
    : rangeGrid(groupRanges(weight, share.size), scheme);
}

/** Rounds a layer's input. */
export interface InputQuantizer {
  /** The whole numbers. */
  readonly scheme: AffineScheme;
  /** Where its steps come from, in words. */
  readonly range: string;
  /** The input rounded and decoded, with gradients: f32 of any shape. */
  apply(x: Tensor): Tensor;
  /** What is trained. */
  tensors(): Iterable<Named<Tensor>>;
  /** What else it keeps between steps, by name: a checkpoint has it too. */
  state(): Iterable<Named<Tensor>>;
  /** Frees what it holds. */
  dispose(): void;
}

/** `x` on a grid. The backward pass computes it again where it can, rather than keep it. */
function rounded(
  x: Tensor,
  { scales, zeros }: GroupGrid,
  scheme: AffineScheme,
): Tensor {
  const levels = levelsOf(scheme);
  const factor = gradientFactor(x.size / scales.size, levels);
  const options = { ...levels, gradientFactor: factor };
  return recomputable(() => fakeQuantize(kept(x), scales, zeros, options));
}

/** Each token's numbers have the range that they have: dynamic quantization. */
export class TokenQuantizer implements InputQuantizer {
  /** The whole numbers. */
  readonly scheme: AffineScheme;
  /** Each token's own. */
  readonly range = "token";

  /** Nothing is kept. */
  constructor(scheme: AffineScheme) {
    this.scheme = scheme;
  }

  /** Ranges of rows, then rounding. */
  apply(x: Tensor): Tensor {
    const columns = x.shape.at(-1)!;
    const grid = rangeGrid(groupRanges(x, columns), this.scheme);
    return rounded(x, grid, this.scheme);
  }

  /** Nothing. */
  tensors(): [] {
    return [];
  }

  /** Nothing. */
  state(): [] {
    return [];
  }

  /** Does nothing. */
  dispose(): void {}
}

/** All inputs share one step, which is given: static quantization. In training it may be learnt from there. */
export class FixedQuantizer implements InputQuantizer {
  /** The whole numbers. */
  readonly scheme: AffineScheme;
  /** Given, and whether it is learnt. */
  readonly range: string;
  /** The step and the whole zero point that were given. */
  readonly parameters: AffineParameters;
  readonly #base: GroupGrid;
  readonly #learnt: LearntGrid | null;

  /** With this step and this whole zero point. */
  constructor(device: Device, scheme: AffineScheme, parameters: AffineParameters, learn = false) {
    this.scheme = scheme;
    this.parameters = parameters;
    this.range = learn ? "given, learnt" : "given";
    const keep = (value: number) => device.keep(tensor(device, Float32Array.of(value)));
    this.#base = { scales: keep(parameters.scale), zeros: keep(parameters.zero) };
    this.#learnt = learn ? new LearntGrid(device, 1, scheme) : null;
  }

  /** The grid as it is now, f32 [1] each. */
  grid(): GroupGrid {
    return this.#learnt?.of(this.#base) ?? this.#base;
  }

  /** Rounding. */
  apply(x: Tensor): Tensor {
    return rounded(x, this.grid(), this.scheme);
  }

  /** `input_log_step` and `input_zero`, if they are learnt. */
  *tensors(): Generator<Named<Tensor>> {
    if (this.#learnt) yield* this.#learnt.tensors("input");
  }

  /** Nothing. */
  state(): [] {
    return [];
  }

  /** Frees the grid. */
  dispose(): void {
    this.#base.scales.dispose();
    this.#base.zeros.dispose();
    this.#learnt?.dispose();
  }
}

/** The run that an observer looks at. */
export interface ObservedRun {
  /** Whether the model is being trained. */
  readonly training: boolean;
  /** u32 [1]: the step, counted from 1. */
  readonly step: Tensor;
}

/**
 * All inputs share one step, from the running mean of the ranges of the first training steps. While those are looked at, training
 * goes on with inputs as they are; then they are rounded, and the range is frozen, or learnt from there.
 */
export class ObservedQuantizer implements InputQuantizer {
  /** The whole numbers. */
  readonly scheme: AffineScheme;
  /** Observed, for how long, and whether it is learnt then. */
  readonly range: string;
  /** The ranges. */
  readonly ranges: RangeState;
  readonly #run: ObservedRun;
  readonly #options: ObserveOptions;
  readonly #learnt: LearntGrid | null;

  /** Nothing is observed yet. */
  constructor(scheme: AffineScheme, run: ObservedRun, options: ObserveOptions, learn: boolean) {
    this.scheme = scheme;
    this.#run = run;
    this.#options = options;
    const { steps, momentum } = options;
    this.range = `observed for ${steps} steps by ${momentum}${learn ? ", learnt" : ""}`;
    const { device } = run.step;
    const empty = () => device.keep(tensor(device, Float32Array.of(1, -1)));
    this.ranges = { running: empty(), found: empty(), last: device.keep(zeros(device, [1])) };
    this.#learnt = learn ? new LearntGrid(device, 1, scheme) : null;
  }

  /** The grid as it is now, f32 [1] each; scale 0 where nothing was observed. */
  grid(): GroupGrid {
    const { training } = this.#run;
    const range = training ? this.ranges.found : this.ranges.running;
    const base = rangeGrid(range, this.scheme, [1]);
    return this.#learnt?.of(base) ?? base;
  }

  /** A look, in training, and rounding. */
  apply(x: Tensor): Tensor {
    if (this.#run.training) observeRange(x, this.#run.step, this.ranges, this.#options);
    return rounded(x, this.grid(), this.scheme);
  }

  /** `input_log_step` and `input_zero`, if they are learnt. */
  *tensors(): Generator<Named<Tensor>> {
    if (this.#learnt) yield* this.#learnt.tensors("input");
  }

  /** The ranges. */
  *state(): Generator<Named<Tensor>> {
    yield* Object.entries(this.ranges);
  }

  /** Frees the ranges and what is learnt. */
  dispose(): void {
    for (const [, own] of this.state()) own.dispose();
    this.#learnt?.dispose();
  }
}
