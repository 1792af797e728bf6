/**
 * Sums on a GPU: columns, rows, and everything, each over enough workgroups to keep memory busy. The order of summation depends
 * on the shape alone.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { groupCode, KernelMemo, unrolled } from "../quads.ts";
import { rowCode, rowGrid } from "../rows.ts";
import columnsCode from "./sum_columns.wgsl" with { type: "text" };
import piecesCode from "./sum_pieces.wgsl" with { type: "text" };
import rowsCode from "./sum_rows_groups.wgsl" with { type: "text" };

/** Loads of an invocation that are under way together. */
const COUNT = 4;

const columnsKernel = new KernelMemo((group: 4 | 1) =>
  kernel(
    "sum_columns",
    `const COUNT = ${COUNT}u;\n${groupCode(group, unrolled(columnsCode, COUNT))}`,
  )
);
const rowsKernel = new KernelMemo((group: 4 | 1) =>
  kernel("sum_rows", rowCode(group, COUNT, rowsCode))
);
const piecesKernel = kernel("sum_pieces", rowCode(4, COUNT, piecesCode));

/** Invocations of a workgroup, and workgroups that fill a GPU. */
const THREADS = 256;
const FULL = 1024;

/** Columns of so many elements are not cut into pieces. */
const SHORT = 1024;

/** Grids have no more along y and z. */
const MOST = 65_535;

/** Whether `sumColumnsGpu` can take these lengths. */
export function fitsColumns(outer: number, inner: number): boolean {
  return outer <= MOST && inner > 1;
}

/** Sums the middle axis of x seen as [outer, length, inner]; result [outer, 1, inner]. */
export function sumColumnsGpu(x: Tensor, outer: number, length: number, inner: number): Tensor {
  const { device } = x;
  const group = inner % 4 === 0 ? 4 : 1;
  const groups = inner / group;
  // Few rows are summed at once, by many invocations for each column; many rows are cut into pieces first.
  const widest = length <= SHORT ? 8 : 32;
  let LANES = 4;
  while (LANES < widest && LANES < groups) LANES *= 2;
  const SLOTS = THREADS / LANES;
  const across = Math.ceil(groups / LANES);
  // A piece is long enough for every slot to have some loads under way.
  const wanted = Math.ceil(FULL / (outer * across));
  const most = length <= SHORT ? 1 : Math.max(1, Math.floor(length / (SLOTS * COUNT)));
  const piece = Math.ceil(length / Math.min(wanted, most, MOST));
  const parts = Math.ceil(length / piece);
  const out = empty(device, [outer, parts, inner]);
  const params = uniform(length, groups, piece);
  const grid = [across, parts, outer] as const;
  device.dispatch(columnsKernel.get(group), [x, out, params], grid, { LANES, SLOTS });
  return parts === 1 ? out : sumColumnsGpu(out, outer, parts, inner);
}

/** Sums each row of x seen as [rows, length]: [rows]. */
export function sumRowsGpu(x: Tensor, rows: number, length: number): Tensor {
  const { device } = x;
  const group = length % 4 === 0 ? 4 : 1;
  let lanes = 16;
  while (lanes < THREADS && lanes * COUNT * group < length) lanes *= 2;
  const split = { LANES: lanes, ROWS: Math.max(1, 128 / lanes) };
  const out = empty(device, [rows]);
  const params = uniform(rows, length / group);
  device.dispatch(rowsKernel.get(group), [x, out, params], rowGrid(rows, split), { ...split });
  return out;
}

/** Elements of a piece at least: four loads of each lane. */
const PIECE = 4 * COUNT * THREADS;

/** The sum of all elements, of their squares, or the root of that: f32 [1]. */
export function sumAllGpu(x: Tensor, kind: "sum" | "squares" | "norm" = "sum"): Tensor {
  const { device, size } = x;
  const pieces = Math.min(FULL, Math.max(1, Math.ceil(size / PIECE)));
  const piece = Math.ceil(size / pieces / 4) * 4;
  const used = Math.max(1, Math.ceil(size / piece));
  const split = { LANES: THREADS, ROWS: 1 };
  const [squares, root] = [kind === "sum" ? 0 : 1, kind === "norm" ? 1 : 0];
  const sums = empty(device, [used]);
  const params = uniform(size, piece, squares, used === 1 ? root : 0);
  device.dispatch(piecesKernel, [x, sums, params], [used], split);
  if (used === 1) return sums;
  const out = empty(device, [1]);
  const last = uniform(used, Math.ceil(used / 4) * 4, 0, root);
  device.dispatch(piecesKernel, [sums, out, last], [1], split);
  return out;
}
