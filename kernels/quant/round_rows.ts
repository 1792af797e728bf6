/**
 * WGSL that rounds rows to bytes within kernels, whatever these do with them.
 *
 * @module
 */
import { heldRowsCode } from "../norm/rms_norm.ts";
import roundingCode from "./byte_rounding.wgsl" with { type: "text" };
import code from "./round_rows.wgsl" with { type: "text" };

/** Rows as they are. */
const PLAIN = `
  let t = row_lane(index);
  let row = block * ROWS + t.y;
  let base = min(row, params.rows - 1u) * params.groups;
  #{let k# = t.x + #u * LANES;
  let v# = x[base + min(k#, params.groups - 1u)];}#
`;

/** Rows that are normalised first, as rms_norm_held.wgsl does it. */
const NORMALIZED = `
  ROW
  #{let v# = x# * r * gain[min(k#, params.groups - 1u)];}#
`;

/**
 * `round_rows(index, block)`, and `row_sum` and what else it needs.
 *
 * @param count groups of four elements that a lane holds
 * @param norm whether rows are normalised first: kernels then have `gain`, too
 */
export function roundRowsCode(count: number, norm: boolean): string {
  const whole = code.replace("INPUT;", () => norm ? NORMALIZED : PLAIN);
  return heldRowsCode(4, count, roundingCode + whole);
}
