/**
 * Rows of a table by number.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { input, kernelPair, pick } from "../../core/inputs.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./embedding.wgsl" with { type: "text" };
import backwardCode from "./embedding_backward.wgsl" with { type: "text" };
import fewCode from "./embedding_backward_few.wgsl" with { type: "text" };

const forward = kernel("embedding", code);
const backward = kernel("embedding_backward", backwardCode);
const backwardFew = kernelPair(
  "embedding_backward_few",
  [["ids", "u32"], "d_out"],
  fewCode,
);

/** Where the table has so many times more rows than there are ids, its gradient is cleared and rows are added to it. */
const FEW = 4;

/** Comparing each id with every other one pays up to so many. */
const MOST_FEW = 1024;

function gradientOfTable(table: Tensor, ids: Tensor, g: Tensor): Tensor {
  const { device } = table;
  const [rows, columns] = table.shape;
  const count = ids.size;
  const dTable = empty(device, table.shape);
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
 * @param table f32 [rows, columns]
 * @param ids i32, any shape
 * @returns f32 [...ids' shape, columns]
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
  checkDType("look up rows", table, "f32", "the table");
  checkDType("look up rows", ids, "i32", "ids");
  const { device } = table;
  const [rows, columns] = table.shape;
  const params = uniform(ids.size, columns, rows);
  const out = empty(device, [...ids.shape, columns]);
  device.dispatch(forward, [table, ids, out, params], gridOf(Math.ceil(out.size / 64)));
  return track("embedding", out, [table], (g) => [gradientOfTable(table, ids, g)]);
}
