/**
 * Matmul for GPUs: a workgroup computes a tile of the result from tiles of the operands in workgroup memory, two stages deep, and
 * a thread computes a block of it in registers. Everything is unrolled in the source, so that stages, steps and accumulators have
 * literal names; lengths are parameters, so that one pipeline serves all of them.
 *
 * @module
 */
import type { Binding } from "../../core/binding.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { type Layout, type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import {
  denseOperand,
  type Operand,
  type OperandSide,
  readShared,
  sharedArray,
} from "./tile_operand.ts";
import { unroll } from "./unroll.ts";

/** Sizes of a tile: the workgroup's rows, columns and depth, and the rows and columns of one thread. */
export interface TileShape {
  readonly rows: number;
  readonly columns: number;
  readonly depth: number;
  readonly threadRows: number;
  readonly threadColumns: number;
}

/** What is multiplied: the right operand may come from other sources than floats. */
export interface RightOperand {
  /** Tells kernels apart: "f32", "nf4". */
  readonly kind: string;
  /** Declares its bindings from this number on. */
  declare(firstBinding: number): string;
  /** A statement at the start of the kernel, with a barrier of its own if it needs one. */
  readonly prepare: string;
  /** How many steps along K one loaded unit covers: 4 floats, 8 codes. */
  readonly perWord: 4 | 8;
  load(side: OperandSide): Operand;
}

/** B as floats. */
export const DENSE: RightOperand = {
  kind: "f32",
  declare: (binding) => `@group(0) @binding(${binding}) var<storage, read> b: array<vec4<f32>>;`,
  prepare: "",
  perWord: 4,
  load: denseOperand,
};

const XYZW = "xyzw";

/** The WGSL of a tiled product. */
export function tileSource(
  layout: Layout,
  shape: TileShape,
  right: RightOperand,
  options: { add: boolean; ragged: boolean },
): string {
  const { rows, columns, depth, threadRows, threadColumns } = shape;
  const across = columns / threadColumns;
  const down = rows / threadRows;
  const threads = across * down;
  const common = { depth, allThreads: threads, ragged: options.ragged };
  const aSide: OperandSide = {
    ...common,
    name: "a",
    width: rows,
    threads: down,
    groups: threadRows / 4,
    first: "first_row",
    length: "p.m",
    transposed: layout !== "tn",
  };
  const bSide: OperandSide = {
    ...common,
    name: "b",
    width: columns,
    threads: across,
    groups: threadColumns / 4,
    first: "first_column",
    length: "p.n",
    transposed: layout === "nt",
  };
  const a = denseOperand(aSide);
  const b = right.load(bSide);
  const rowGroups = aSide.groups;
  const columnGroups = bSide.groups;

  const step = (stage: number, kk: number) =>
    `{
${unroll(rowGroups, (g) => `let x${g} = ${readShared(aSide, stage, kk, g, "ty")};`)}
${
      unroll(
        columnGroups,
        (h) => `let y${h} = ${readShared(bSide, stage, kk, h, "tx", right.perWord)};`,
      )
    }
${
      unroll(
        threadRows,
        (i) =>
          unroll(
            columnGroups,
            (h) => `c${i}_${h} = fma(vec4<f32>(x${i >> 2}.${XYZW[i & 3]}), y${h}, c${i}_${h});`,
          ),
      )
    }
}`;
  const inner = (stage: number) => unroll(depth, (kk) => step(stage, kk));
  const load = (k: string) => `${a.load(k)}\n${b.load(k)}`;
  const store = (stage: number) => `${a.store(stage)}\n${b.store(stage)}`;
  // A warp covers 8 threads across and 4 down, where the tile allows: fewer different rows and columns per load.
  const warped = across % 8 === 0 && down % 4 === 0;
  const bindingsOfB = right.declare(1);
  const next = 1 + (bindingsOfB.match(/@binding/g)?.length ?? 1);
  const write = (i: number, h: number) => `
  {
    let row = first_row + 4u * (ty + ${(i >> 2) * down}u) + ${i & 3}u;
    let column = first_column / 4u + tx + ${h * across}u;
    if (row < p.m && column < p.n / 4u) {
      let at = w.z * (p.c_stride / 4u) + row * (p.n / 4u) + column;
      c[at] = p.alpha * c${i}_${h}${options.add ? " + d[at]" : ""};
    }
  }`;
  return `${PRODUCT_WGSL}
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
${bindingsOfB}
@group(0) @binding(${next}) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(${next + 1}) var<uniform> p: Product;
${options.add ? `@group(0) @binding(${next + 2}) var<storage, read> d: array<vec4<f32>>;` : ""}
${sharedArray(aSide)}
${sharedArray(bSide, right.perWord)}

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(local_invocation_index) t: u32) {
  let first_row = w.y * ${rows}u;
  let first_column = w.x * ${columns}u;
  let a_base = w.z * (p.a_stride / 4u);
  let b_base = w.z * (p.b_stride / 4u);
${
    warped
      ? `  let tx = t % 8u + 8u * (t / 32u % ${across / 8}u);
  let ty = t % 32u / 8u + 4u * (t / 32u / ${across / 8}u);`
      : `  let tx = t % ${across}u;
  let ty = t / ${across}u;`
  }
  ${unroll(threadRows, (i) => unroll(columnGroups, (h) => `var c${i}_${h} = vec4<f32>();`))}
  ${right.prepare}
  ${a.setup}
  ${b.setup}
  ${load("0u")}
  ${store(0)}
  workgroupBarrier();
  for (var k = 0u; k < p.k; k += ${2 * depth}u) {
    ${load(`(k + ${depth}u)`)}
    ${inner(0)}
    ${store(1)}
    workgroupBarrier();
    if (k + ${2 * depth}u < p.k) {
      ${load(`(k + ${2 * depth}u)`)}
    }
    ${inner(1)}
    if (k + ${2 * depth}u < p.k) {
      ${store(0)}
    }
    workgroupBarrier();
  }
  ${unroll(threadRows, (i) => unroll(columnGroups, (h) => write(i, h)))}
}
`;
}

const kernels = new Map<string, Kernel>();

/** Shapes by how many rows there are, and how many tiles. */
const LARGE: TileShape = { rows: 128, columns: 128, depth: 16, threadRows: 8, threadColumns: 8 };
const MEDIUM: TileShape = { rows: 64, columns: 64, depth: 16, threadRows: 4, threadColumns: 4 };
const SHALLOW: TileShape = { rows: 16, columns: 64, depth: 16, threadRows: 4, threadColumns: 4 };

/** With fewer large tiles than this a GPU is not full. */
const FULL = 100;

/** The tile for a product. */
export function chooseTile({ m, n, batch }: Pick<Product, "m" | "n" | "batch">): TileShape {
  if (m <= 16) return SHALLOW;
  return batch * Math.ceil(m / 128) * Math.ceil(n / 128) >= FULL ? LARGE : MEDIUM;
}

/** Whether the tiles can take a product: they load and store four elements at a time. */
export function fitsTiles({ layout, m, n, k }: Pick<Product, "layout" | "m" | "n" | "k">): boolean {
  if (n % 4 !== 0) return false;
  if (layout === "nt" || layout === "nn") return k % 4 === 0;
  return layout === "tn" && m % 4 === 0;
}

/** Queues a product that `fitsTiles`. */
export function tileMatmul(
  product: Product,
  right: RightOperand = DENSE,
  rightBindings: readonly Binding[] = [product.b],
  shape: TileShape = chooseTile(product),
): void {
  const { a, add, out, layout, m, n, k, batch } = product;
  const ragged = k % (2 * shape.depth) !== 0;
  const key = [right.kind, layout, ...Object.values(shape), add !== undefined, ragged].join();
  let found = kernels.get(key);
  if (!found) {
    const name = `matmul_${layout}${right.kind === "f32" ? "" : `_${right.kind}`}`;
    found = kernel(name, tileSource(layout, shape, right, { add: add !== undefined, ragged }));
    kernels.set(key, found);
  }
  const bindings = [a, ...rightBindings, out, productUniform(product)];
  if (add) bindings.push(add);
  out.device.dispatch(found, bindings, [
    Math.ceil(n / shape.columns),
    Math.ceil(m / shape.rows),
    batch,
  ]);
}
