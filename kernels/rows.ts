/**
 * How kernels that work on rows split a workgroup: see rows.wgsl.
 *
 * @module
 */
import type { Grid } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { gridOf } from "../core/grid.ts";
import code from "./rows.wgsl" with { type: "text" };

/** WGSL with `row_sum` and `row_max`. */
export const ROWS_WGSL: string = code;

/**
 * The same for one lane to a row, which has nothing to exchange and so needs no workgroup memory.
 */
export const ONE_LANE_WGSL = `
override LANES: u32 = 1u;
override ROWS: u32 = 8u;
fn row_lane(index: u32) -> vec2<u32> { return vec2<u32>(0u, index); }
fn row_sum(value: f32, lane: u32, slot: u32) -> f32 { return value; }
fn row_max(value: f32, lane: u32, slot: u32) -> f32 { return value; }
`;

/** Lanes for each row, and rows for each workgroup. */
export interface RowSplit {
  readonly LANES: number;
  readonly ROWS: number;
}

/** The split that `ONE_LANE_WGSL` is for. */
export const ONE_LANE: RowSplit = { LANES: 1, ROWS: 8 };

/** The split for rows of this many elements. */
export function splitRows(device: Device, columns: number): RowSplit {
  if (device.adapter.type === "software") {
    return columns >= 1024 ? { LANES: 8, ROWS: 1 } : { LANES: 1, ROWS: 8 };
  }
  let lanes = 16;
  while (lanes < 256 && lanes * 8 < columns) lanes *= 2;
  return { LANES: lanes, ROWS: Math.max(1, 64 / lanes) };
}

/** The grid for so many rows. */
export function rowGrid(rows: number, split: RowSplit): Grid {
  return gridOf(Math.ceil(rows / split.ROWS));
}
