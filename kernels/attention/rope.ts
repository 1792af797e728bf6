/**
 * Rotary position embedding.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { checkDType, checkIsShape, checkRank } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { pickQuads, quadKernels } from "../quads.ts";
import code from "./rope.wgsl" with { type: "text" };

const ropeKernels = quadKernels("rope", ["x", "angles"], code);

function rotate(x: Tensor, positions: Tensor, table: Tensor, sign: 1 | -1): Tensor {
  const [batch, length, heads, size] = x.shape;
  const half = size / 2;
  const out = empty(x.device, x.shape);
  const { group, kernel, bind } = pickQuads(x.device, ropeKernels, half);
  const params = uniform(batch * length, heads, half / group, floatBits(sign));
  x.device.dispatch(
    kernel,
    [bind(x), bind(table), positions, out, params],
    gridOf(Math.ceil(x.size / 2 / group / 64)),
  );
  return out;
}

/**
 * Turns each head of each token by its position's angles, in Llama's half-rotation: elements j and j + D/2 are a pair.
 * Su et al., "RoFormer" (arXiv 2104.09864).
 *
 * @param x f32 [batch, length, heads, D]; D even
 * @param positions i32 [batch, length]; each below the table's length
 * @param table f32 [positions, D]: for each position D/2 cosines, then D/2 sines (see `ropeTable`)
 * @returns f32 of x's shape
 *
 * @example
 * ```ts
 * import { openDevice, rope, ropeTable, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const table = tensor(device, ropeTable({ headSize: 4, theta: 10000, length: 8 }), [8, 4]);
 * const x = tensor(device, new Float32Array([1, 0, 0, 1]), [1, 1, 1, 4]);
 * const positions = tensor(device, new Int32Array([3]), [1, 1]);
 * console.log(await rope(x, positions, table).read());
 * ```
 */
export function rope(x: Tensor, positions: Tensor, table: Tensor): Tensor {
  checkRank("rotate", x, 4);
  checkDType("rotate", x, "f32");
  checkDType("rotate", positions, "i32", "positions");
  const [batch, length, , size] = x.shape;
  if (size % 2 !== 0) throw new RangeError(`Cannot rotate heads of ${size}: the size must be even`);
  checkIsShape("rotate", positions, [batch, length], "positions");
  checkIsShape("rotate", table, [-1, size], "table");
  return track("rope", rotate(x, positions, table, 1), [x], (g) => [
    rotate(g, positions, table, -1),
  ]);
}
