/**
 * Matmul for GPUs: a workgroup computes a tile of the result from tiles of the operands in workgroup memory, and a thread computes
 * a block of it in registers. Where there are too few tiles for the GPU, or a few more than it takes at once, several workgroups
 * share a tile: each sums over a part of K, and a second kernel adds the parts, always in the same order.
 *
 * @module
 */
import { type Binding, floatBits, uniform } from "../../core/binding.ts";
import { constant } from "../../core/constant.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { empty } from "../../core/tensor.ts";
import { flopsOf, type Product } from "./product.ts";
import { chooseTilePlan, chunkOf, stepOf, type TilePlan, tilesOf } from "./tile_plan.ts";
import {
  DENSE,
  DENSE_UNALIGNED,
  HALVES,
  type RightOperand,
  TILED_WGSL,
  type TileShape,
  tileSource,
} from "./tile_source.ts";
import sumCode from "./tile_sum.wgsl" with { type: "text" };

export { DENSE, type RightOperand, type TileShape } from "./tile_source.ts";

const kernels = new Map<string, Kernel>();
const sumKernel = kernel("matmul_sum", TILED_WGSL + sumCode);

/** Products with rows that are not multiples of four floats take tiles from so many multiplications on: they compile anew. */
const LEAST_UNALIGNED = 1 << 20;

/** Whether the rows of A, of B and of the result are multiples of four floats, so that they are loaded and stored as vectors. */
function alignment({ layout, m, n, k }: Pick<Product, "layout" | "m" | "n" | "k">) {
  return {
    alignedA: (layout === "tn" ? m : k) % 4 === 0,
    alignedB: (layout === "nt" ? k : n) % 4 === 0,
    alignedC: n % 4 === 0,
  };
}

/** Whether the tiles can take a product, and should. */
export function fitsTiles(product: Pick<Product, "layout" | "m" | "n" | "k">): boolean {
  const { layout, m, n, k } = product;
  if (layout === "tt") return false;
  const { alignedA, alignedB, alignedC } = alignment(product);
  return alignedA && alignedB && alignedC || m * n * k >= LEAST_UNALIGNED;
}

/** How B is loaded if it is not quantized. */
function plainOperand(product: Product): RightOperand {
  if (product.b.dtype === "f16") return HALVES;
  return alignment(product).alignedB ? DENSE : DENSE_UNALIGNED;
}

/** Whether B's rows are multiples of four floats, as tiles need them for halves. */
export function fitsHalves(product: Pick<Product, "layout" | "m" | "n" | "k">): boolean {
  return fitsTiles(product) && alignment(product).alignedB;
}

/** A tile this large fills the GPU, and compiles for half a second: one kernel then serves with parts and without. */
function servesBoth({ rows, columns, turn }: TileShape): boolean {
  return rows * columns >= 128 * 128 && turn > 1;
}

function kernelFor(product: Product, right: RightOperand, { shape }: TilePlan, split: boolean) {
  const { layout, k } = product;
  const ragged = k % stepOf(shape) !== 0;
  const { alignedA, alignedC } = alignment(product);
  const options = { split, ragged, alignedA, alignedC };
  const key = [right.kind, layout, ...Object.values(shape), ...Object.values(options)].join();
  let found = kernels.get(key);
  if (!found) {
    const name = `matmul_${layout}${right.kind.startsWith("f32") ? "" : `_${right.kind}`}`;
    found = kernel(name, tileSource(layout, shape, right, options));
    kernels.set(key, found);
  }
  return found;
}

/** Bytes of the table that kernels for 4-bit floats may have in workgroup memory. */
const TABLE_BYTES = 64;

/** The plan for a product on its device: Apple's and Microsoft's interfaces have less workgroup memory than NVIDIA's. */
function planFor(product: Product, { packed, prepare }: RightOperand): TilePlan {
  const { m, n, k, batch, layout, out } = product;
  const { maxComputeWorkgroupStorageSize } = out.device.gpu.limits;
  const memory = maxComputeWorkgroupStorageSize - (prepare === "" ? 0 : TABLE_BYTES);
  return chooseTilePlan({ m, n, k, batch, layout, packed, memory });
}

/**
 * Queues a product that `fitsTiles`.
 *
 * @param product what is multiplied
 * @param right how the right operand is loaded
 * @param rightBindings what it is loaded from
 * @param plan how; tests and benches choose, users do not
 */
export function tileMatmul(
  product: Product,
  right: RightOperand = plainOperand(product),
  rightBindings: readonly Binding[] = [product.b],
  plan: TilePlan = planFor(product, right),
): void {
  const { a, add, out, m, n, k, batch, ownB, alpha } = product;
  const { shape, whole, splits } = plan;
  const tiles = tilesOf(product, shape);
  const sizes = [m, n, k, batch, m * k, ownB ? n * k : 0, m * n, floatBits(alpha)];
  const { rows, columns } = shape;
  const chunk = chunkOf(k, splits, shape);
  const parameters = uniform(...sizes, whole, splits, chunk, add ? 1 : 0, rows, columns);
  const split = splits > 1 || servesBoth(shape);
  const found = kernelFor(product, right, plan, split);
  const bindings = [a, ...rightBindings, out, parameters, add ?? a];
  if (splits === 1) {
    if (split) bindings.push(constant(out.device, "no parts", () => new Float32Array(4)));
    out.device.dispatch(found, bindings, gridOf(tiles), undefined, flopsOf(product));
    return;
  }
  const shared = tiles - whole;
  const parts = empty(out.device, [shared * splits, rows, columns]);
  const grid = gridOf(whole + shared * splits);
  out.device.dispatch(found, [...bindings, parts], grid, undefined, flopsOf(product));
  out.device.dispatch(
    sumKernel,
    [parts, out, parameters, add ?? parts],
    gridOf(Math.ceil(shared * rows * columns / 4 / 256)),
  );
  out.device.free(parts.storage);
}
