/**
 * Choosing and running the kernels of stream.ts.
 *
 * @module
 */
import { floatBits, uniform } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import { groupsOf, type StreamPlan, streamSource, THREADS } from "./stream.ts";
import { isDense, type WeightFormat } from "./weight_format.ts";

/** So many rows of x at most. */
export const STREAM_ROWS = 8;

/** Products with weights that share x. */
export interface StreamProduct {
  /** f32 [m, k]. */
  readonly x: Tensor;
  readonly m: number;
  /** One to three weights [n, k]; two of one shape and unit if gated. */
  readonly formats: readonly WeightFormat[];
  /** A result for each weight, or one if gated: f32 [m, n]. */
  readonly outs: readonly Tensor[];
  /** silu(x · gateᵀ) · (x · upᵀ). */
  readonly gated?: boolean;
  /** Normalise x by its rows first. */
  readonly norm?: { readonly gain: Tensor; readonly epsilon: number };
  /** A factor of the results (not with `gated`); 1 by default. */
  readonly alpha?: number;
  /** Added to the one result. */
  readonly add?: Tensor;
  /** f32 [n] for each weight, or none. */
  readonly biases?: readonly (Tensor | null)[];
}

/** Kernels by what they compute and how. */
const kernels = new Map<string, Kernel>();

/** The smallest number of lanes, a power of two of at least `least`, that takes so many units in one turn; 128 at most. */
function lanesFor(units: number, least: number): number {
  let lanes = least;
  while (lanes < units && lanes < THREADS) lanes *= 2;
  return lanes;
}

/** So many rows of floats keep a GPU busy with 32 lanes each, which leave fewer idle where K is short. */
const MANY_ROWS = 8192;

/** The plan for plain floats, where subgroups have 32 lanes. */
function densePlan(m: number, rows: number, units: number, gated: boolean): StreamPlan {
  const common = { combine: "subgroup", share: false } as const;
  if (units < 32) {
    return { ...common, combine: "workgroup", lanes: lanesFor(units, 1), rows: 1, ahead: 1 };
  }
  const narrow = rows >= MANY_ROWS && units < 512;
  const lanes = narrow ? 32 : lanesFor(units, 32);
  const turns = Math.ceil(units / lanes);
  if (m <= 2) {
    const ahead = Math.min(turns, narrow || gated ? 4 : 8);
    return { ...common, lanes, rows: narrow ? m : 1, ahead };
  }
  if (m > 4 && !narrow) {
    return { ...common, lanes, rows: 2, ahead: Math.min(turns, units >= 512 ? 4 : 2) };
  }
  return { ...common, lanes, rows: rows >= 2048 ? 4 : 2, ahead: Math.min(turns, 2) };
}

/**
 * The plan for a product on this device: with subgroups the fastest of those that were tried on an H100. Those without, and those of
 * int2 and int3 for more than one row of x, were not timed.
 */
export function chooseStream(device: Device, product: StreamProduct): StreamPlan {
  const { m, formats, gated = false } = product;
  const [{ unit, kind, shape: [, k] }] = formats;
  const units = k / unit;
  const rows = formats.reduce((sum, { shape: [n] }) => sum + n, 0);
  if (!device.adapter.subgroups) {
    const lanes = units < 32 ? lanesFor(units, 1) : units >= 512 ? 128 : 32;
    const own = rows >= 2048 && m <= 2 ? 4 : 1;
    return { combine: "workgroup", lanes, rows: own, ahead: 1, share: false };
  }
  if (formats.every(isDense)) return densePlan(m, rows, units, gated);
  if (rows * k < 1 << 21 && (gated || rows < 768)) {
    // Many lanes for each row, so that every multiprocessor has work, and all that a lane needs is under way at once.
    const ahead = m <= 2 ? Math.min(3, Math.max(1, Math.ceil(units / 64))) : 1;
    return { combine: "subgroup", lanes: 64, rows: 1, ahead, share: false };
  }
  // Rows share what is loaded of x; a gate and what it gates are loaded side by side.
  const few = kind.startsWith("int") && (formats[0].sharing === 1 || rows < MANY_ROWS);
  const most = gated || few ? 4 : 8;
  const lanes = 128;
  const own = rows >= 2048 ? most : units <= lanes ? 4 : 2;
  const even = 2 * Math.ceil(units / (2 * lanes)) <= Math.ceil(units / lanes);
  // Bytes, and eight rows of int2, are faster in two turns of one unit.
  const inTurns = m === 1 && (kind.startsWith("int8") || kind.startsWith("int2") && own === 8);
  return { combine: "subgroup", lanes, rows: own, ahead: even && !inTurns ? 2 : 1, share: true };
}

/** Queues the products. Not tracked. */
export function streamProduct(product: StreamProduct, plan?: StreamPlan): void {
  const { x, m, formats, outs, gated = false, norm, alpha = 1, add, biases = [] } = product;
  const { device } = x;
  const chosen = plan ?? chooseStream(device, product);
  const [, k] = formats[0].shape;
  const per = chosen.lanes * chosen.ahead;
  const ragged = formats.some(({ unit }) => k / unit % per !== 0);
  const task = {
    m,
    ragged,
    gated,
    norm: norm !== undefined,
    add: add !== undefined,
    biases: biases.some((bias) => bias) ? biases.map((bias) => bias !== null) : [],
  };
  const key = [...Object.values(task), ...Object.values(chosen), ...formats.map((f) => f.kind)]
    .join();
  let found = kernels.get(key);
  if (!found) {
    const name = gated ? "gated_product" : "product";
    found = kernel(`${name}_${formats[0].kind}`, streamSource(formats, task, chosen));
    kernels.set(key, found);
  }
  const rows = outs.map((_, i) => formats[i].shape[0]);
  const groups = rows.map((n) => Math.ceil(n / (groupsOf(chosen) * chosen.rows)));
  const [n0, n1 = 0, n2 = 0] = rows;
  const [g0, g1 = 0, g2 = 0] = groups;
  device.dispatch(
    found,
    [
      x,
      uniform(k, floatBits(norm?.epsilon ?? 0), floatBits(alpha), n0, n1, n2, g0, g0 + g1),
      ...outs,
      ...norm ? [norm.gain] : [],
      ...add ? [add] : [],
      ...biases.filter((bias) => bias !== null),
      ...formats.flatMap((f) => f.bindings),
    ],
    gridOf(g0 + g1 + g2),
  );
}
