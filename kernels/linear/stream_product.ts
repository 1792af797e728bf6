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
import { groupsOf, type StreamPlan, streamSource } from "./stream.ts";
import type { WeightFormat } from "./weight_format.ts";

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
  /** Added to the one result. */
  readonly add?: Tensor;
  /** f32 [n] for each weight, or none. */
  readonly biases?: readonly (Tensor | null)[];
}

/** Kernels by what they compute and how. */
const kernels = new Map<string, Kernel>();

/** The plan for a product on this device. Measured on an H100: tables of plans are in the commits that chose them. */
export function chooseStream(device: Device, product: StreamProduct): StreamPlan {
  const { m, formats, gated = false } = product;
  const [{ unit, kind, shape: [, k] }] = formats;
  const units = k / unit;
  const rows = formats.reduce((sum, { shape: [n] }) => sum + n, 0);
  if (!device.adapter.subgroups) {
    const lanes = units >= 512 ? 128 : 32;
    return {
      combine: "workgroup",
      lanes,
      rows: rows >= 2048 && m <= 2 ? 4 : 1,
      ahead: 1,
      share: false,
    };
  }
  // Few rows: many lanes for each, so that every multiprocessor has work, and all that a lane needs is under way at once.
  const few = (lanes: number, most: number): StreamPlan => ({
    combine: "subgroup",
    lanes,
    rows: 1,
    ahead: Math.min(most, Math.max(1, Math.ceil(units / lanes))),
    share: false,
  });
  if (formats.every((format) => format.kind === "f32")) {
    return m <= 2 ? few(128, gated ? 4 : 8) : { ...few(128, 2), rows: rows >= 2048 ? 4 : 2 };
  }
  if (rows * k < 1 << 21) return few(64, m <= 2 ? 3 : 1);
  // Many rows share what is loaded of x; a gate and what it gates are loaded side by side.
  const most = kind.startsWith("int") || gated ? 4 : 8;
  const lanes = 128;
  const even = 2 * Math.ceil(units / (2 * lanes)) <= Math.ceil(units / lanes);
  const held = rows >= 2048 ? most : 4;
  return { combine: "subgroup", lanes, rows: held, ahead: even ? 2 : 1, share: true };
}

/** Queues the products. Not tracked. */
export function streamProduct(product: StreamProduct, plan?: StreamPlan): void {
  const { x, m, formats, outs, gated = false, norm, add, biases = [] } = product;
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
      uniform(k, floatBits(norm?.epsilon ?? 0), n0, n1, n2, g0, g0 + g1),
      ...outs,
      ...norm ? [norm.gain] : [],
      ...add ? [add] : [],
      ...biases.filter((bias) => bias !== null),
      ...formats.flatMap((f) => f.bindings),
    ],
    gridOf(g0 + g1 + g2),
  );
}
