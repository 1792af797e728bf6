/**
 * How kernels that work on rows split a workgroup: see rows.wgsl.
 *
 * @module
 */
import type { Grid } from "../core/commands.ts";
import type { Device } from "../core/device.ts";
import { gridOf } from "../core/grid.ts";
import { groupCode, unrolled } from "./quads.ts";
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

/** How rows are held in registers while a kernel works on them, so that each is read once. */
export interface HeldRows {
  /** Elements that are loaded together. */
  readonly group: 4 | 1;
  /** Groups of a lane. */
  readonly count: number;
  readonly split: RowSplit;
}

/** Groups that a lane holds of each of two rows or more. */
export const HELD_TWO = 4;

/** Lanes of a row at most. */
const MOST_LANES = 512;

/**
 * How a GPU holds rows of this many elements, or `null` where it cannot, and on software Vulkan, which has no registers to speak
 * of.
 *
 * @param most the most groups that a lane may hold: fewer where a kernel holds several rows at a time
 */
export function holdRows(device: Device, columns: number, most = 8): HeldRows | null {
  if (device.adapter.type === "software") return null;
  const group = columns % 4 === 0 ? 4 : 1;
  const groups = columns / group;
  let lanes = 32;
  while (lanes < MOST_LANES && lanes * most < groups) lanes *= 2;
  const count = Math.max(1, Math.ceil(groups / lanes));
  if (count > most) return null;
  return { group, count, split: { LANES: lanes, ROWS: Math.max(1, 128 / lanes) } };
}

/** So many workgroups fill a GPU while each still walks enough rows to make few pieces. */
const WALKERS = 264;

/** The grid for workgroups that walk several rows each, if what they sum up on the way is wanted, and else one. */
export function walkGrid(
  rows: number,
  split: RowSplit,
  sums: boolean,
  walkers: number = WALKERS,
): Grid {
  return sums ? [Math.min(walkers, Math.ceil(rows / split.ROWS))] : rowGrid(rows, split);
}

/** How workgroups that walk rows sum over the lanes of each: in workgroup memory, or first within subgroups of 32 lanes. */
export type WalkSums = "workgroup" | "subgroup";

/** The fastest that a device has. */
export function chooseWalkSums({ adapter }: Device): WalkSums {
  return adapter.subgroups ? "subgroup" : "workgroup";
}

/**
 * WGSL of `walk_sums(values, t, turn)`: two sums at once over the lanes of a row, of 32 or more. `t` is what `row_lane` gives, `turn`
 * 0 and 1 by turns, so that with subgroups one barrier is enough for each row.
 */
export function walkSumsCode(sums: WalkSums): string {
  if (sums === "workgroup") {
    return `
fn walk_sums(values: vec2<f32>, t: vec2<u32>, turn: u32) -> vec2<f32> {
  return row_sums(values, t.x, t.y);
}
`;
  }
  return `
var<workgroup> walk_parts: array<vec2<f32>, 2u * ROWS * LANES / 32u>;
fn walk_sums(values: vec2<f32>, t: vec2<u32>, turn: u32) -> vec2<f32> {
  let own = subgroupAdd(values);
  let base = (turn * ROWS + t.y) * (LANES / 32u);
  if (t.x % 32u == 0u) {
    walk_parts[base + t.x / 32u] = own;
  }
  workgroupBarrier();
  var all = walk_parts[base];
  for (var k = 1u; k < LANES / 32u; k++) {
    all += walk_parts[base + k];
  }
  return all;
}
`;
}

/** WGSL for rows of groups: `row_sum` and `row_max`, V and its functions, and `#{…}#` repeated for each group of a lane. */
export function rowCode(group: 4 | 1, count: number, code: string): string {
  return `const COUNT = ${count}u;\n${ROWS_WGSL}${groupCode(group, unrolled(code, count))}`;
}
