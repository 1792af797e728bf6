/**
 * Rows of a table by number.
 *
 * @module
 */
import { isTracking, needsGrad, track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, kernelPair, pick } from "../../core/inputs.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank } from "../../core/shape.ts";
import { type DType, empty, type Tensor } from "../../core/tensor.ts";
import { groupCode, KernelMemo, rowsGrid } from "../quads.ts";
import code from "./embedding.wgsl" with { type: "text" };
import backwardCode from "./embedding_backward.wgsl" with { type: "text" };
import linkedCode from "./embedding_backward_linked.wgsl" with { type: "text" };
import linksCode from "./embedding_links.wgsl" with { type: "text" };
import fewCode from "./embedding_backward_few.wgsl" with { type: "text" };

const forward = new KernelMemo((dtype: DType, group: 4 | 1) =>
  kernel("embedding", groupCode(group, TABLE_WGSL[dtype === "f16" ? "f16" : "f32"] + code))
);

/** How a group of a table's elements is read. Halves are unpacked without the device's support for them. */
const TABLE_WGSL = {
  f32: `
@group(0) @binding(0) var<storage, read> table: array<V>;
fn table_at(i: u32) -> V { return table[i]; }
`,
  f16: `
@group(0) @binding(0) var<storage, read> table: array<vec2<u32>>;
fn table_at(i: u32) -> vec4<f32> {
  return vec4<f32>(unpack2x16float(table[i].x), unpack2x16float(table[i].y));
}
`,
};

const backward = kernel("embedding_backward", backwardCode);
const linksKernel = kernel("embedding_links", linksCode);
const linkedKernel = kernel("embedding_backward_linked", linkedCode);
const backwardFew = kernelPair(
  "embedding_backward_few",
  [["ids", "u32"], "d_out"],
  fewCode,
);

/** Invocations of a workgroup of the lookup. */
const THREADS = 128;

/** WebGPU's limit on each dimension of a grid. */
const MOST_GROUPS = 65_535;

/** Where the table has so many times more rows than there are ids, its gradient is cleared and rows are added to it. */
const FEW = 4;

/** Comparing each id with every other one pays up to so many. */
const MOST_FEW = 1024;

function gradientOfTable(table: Tensor, ids: Tensor, g: Tensor): Tensor {
  const { device } = table;
  const [rows, columns] = table.shape;
  const count = ids.size;
  const dTable = empty(device, table.shape);
  if (device.adapter.type === "gpu" && columns % 4 === 0 && count <= MOST_GROUPS) {
    const links = empty(device, [count, 2], "u32");
    device.clear(dTable);
    device.dispatch(linksKernel, [ids, links, uniform(count)], [Math.ceil(count / 4)]);
    const params = uniform(count, columns / 4, rows);
    const grid = [Math.ceil(columns / 4 / 128), count] as const;
    device.dispatch(linkedKernel, [ids, links, g, dTable, params], grid);
    return dTable;
  }
  if (count * FEW > rows || count > MOST_FEW || columns % 4 !== 0) {
    device.dispatch(backward, [ids, g, dTable, uniform(count, columns, rows)], gridOf(rows));
    return dTable;
  }
  device.clear(dTable);
  device.dispatch(
    pick(device, backwardFew),
    [input(ids, "u32"), input(g), dTable, uniform(count, columns / 4, rows)],
    gridOf(Math.ceil(count * columns / 4 / 64)),
  );
  return dTable;
}

/**
 * The rows of `table` with the numbers `ids`. A number beyond the table gives its last row: the host checks ids before upload.
 *
 * @param table f32 [rows, columns]; or f16, with columns a multiple of 4, for a table that is not trained
 * @param ids i32, any shape
 * @returns f32 [...ids' shape, columns]
 * @throws {TypeError} if a gradient should flow into a table of halves
 *
 * @example
 * ```ts
 * import { embedding, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const table = tensor(device, new Float32Array([1, 2, 3, 4]), [2, 2]);
 * console.log(await embedding(table, tensor(device, new Int32Array([1, 0]))).read()); // [ 3, 4, 1, 2 ]
 * ```
 */
export function embedding(table: Tensor, ids: Tensor): Tensor {
  checkRank("look up rows", table, 2, "the table");
  checkDType("look up rows", table, ["f32", "f16"], "the table");
  checkDType("look up rows", ids, "i32", "ids");
  const { device } = table;
  const [rows, columns] = table.shape;
  const out = empty(device, [...ids.shape, columns]);
  // Single elements on software Vulkan, where groups of four are no faster.
  const isHalf = table.dtype === "f16";
  if (isHalf && columns % 4 !== 0) {
    throw new RangeError(
      `Cannot look up rows of ${columns} halves: wanted a multiple of 4; cast the table to f32`,
    );
  }
  if (isHalf && isTracking() && needsGrad(table)) {
    throw new TypeError(
      'Cannot train a table of halves: cast it to f32 first, or load the model with weights: "f32"',
    );
  }
  const group = isHalf || (device.adapter.type === "gpu" && columns % 4 === 0) ? 4 : 1;
  const groups = columns / group;
  const { grid, ...split } = rowsGrid(ids.size, groups, THREADS);
  const params = uniform(ids.size, groups, rows);
  device.dispatch(forward.get(table.dtype, group), [table, ids, out, params], grid, split);
  if (isHalf) return out;
  return track("embedding", out, [table], (g) => [gradientOfTable(table, ids, g)]);
}
