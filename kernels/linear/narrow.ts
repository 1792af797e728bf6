/**
 * Matmul for GPUs where the result is narrow and K is long, such as LoRA's way down and its gradients: there are few tiles, and the
 * time is that of reading the operands. A workgroup computes a tile of 16x16; its threads form 16 slices that take turns along K, each
 * slice with all of the tile in its registers, and their sums are added in workgroup memory, always in the same order.
 *
 * @module
 */
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { flopsOf, type Layout, type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import { unroll } from "./unroll.ts";

/** Rows and columns of a tile. */
const TILE = 16;
/** Slices of a workgroup, and the threads of each: four by four, with four by four results each. */
const SLICES = 16;
const THREADS = 16 * SLICES;

/**
 * A product is narrow up to so many rows or columns. With a shorter K or more tiles the slices have too little to do, with a longer
 * K there are too few of them: measured on an H100 against tiles whose parts a second kernel adds. They win up to a K of 1024; up to
 * 1536, the longest of SmolLM2's, two kernels more to compile would cost more than they save.
 */
const MOST_NARROW = 16;
const LEAST_K = 64;
const MOST_K = 1536;
const MOST_TILES = 256;

function tilesOf({ m, n, batch }: Pick<Product, "m" | "n" | "batch">): number {
  return batch * Math.ceil(m / TILE) * Math.ceil(n / TILE);
}

/** Whether this kernel should take a product; it loads four elements at a time along the contiguous axes. */
export function fitsNarrow(
  product: Pick<Product, "layout" | "m" | "n" | "k" | "batch">,
): boolean {
  const { layout, m, n, k } = product;
  if (Math.min(m, n) > MOST_NARROW || k < LEAST_K || k > MOST_K || n % 4 !== 0) return false;
  if (tilesOf(product) > MOST_TILES) return false;
  return layout === "tn" ? m % 4 === 0 : layout !== "tt" && k % 4 === 0;
}

const XYZW = "xyzw";

/** The statements of a step: four along K, or with a transposed A one. */
function step(layout: Layout, q: string): string {
  if (layout === "tn") {
    return `{
    let x = a[a_base + ${q} * m4 + row4];
    let y = b[b_base + ${q} * n4 + column4];
    ${unroll(4, (i) => `c${i} = fma(vec4<f32>(x.${XYZW[i]}), y, c${i});`)}
  }`;
  }
  const xs = unroll(4, (i) => `let x${i} = a[a_row${i} + ${q}];`);
  if (layout === "nt") {
    const sums = (i: number) =>
      unroll(4, (j) => {
        const c = `c${i}.${XYZW[j]}`;
        return `${c} = fma(x${i}.x, y${j}.x, fma(x${i}.y, y${j}.y, fma(x${i}.z, y${j}.z, fma(x${i}.w, y${j}.w, ${c}))));`;
      });
    return `{
    ${xs}
    ${unroll(4, (j) => `let y${j} = b[b_row${j} + ${q}];`)}
    ${unroll(4, sums)}
  }`;
  }
  return `{
    ${xs}
    ${unroll(4, (j) => `let y${j} = b[b_base + (4u * ${q} + ${j}u) * n4 + column4];`)}
    ${unroll(4, (j) => unroll(4, (i) => `c${i} = fma(vec4<f32>(x${i}.${XYZW[j]}), y${j}, c${i});`))}
  }`;
}

function source(layout: Layout): string {
  const steps = layout === "tn" ? "p.k" : "p.k / 4u";
  // Enough loads under way: eight vectors of each operand.
  const turns = layout === "tn" ? 8 : 2;
  const rows = layout === "tn"
    ? "let row4 = min(first_row / 4u, m4 - 1u);"
    : unroll(4, (i) => `let a_row${i} = a_base + min(first_row + ${i}u, p.m - 1u) * k4;`);
  const columns = layout === "nt"
    ? unroll(4, (j) => `let b_row${j} = b_base + min(first_column + ${j}u, p.n - 1u) * k4;`)
    : "let column4 = min(first_column / 4u, n4 - 1u);";
  return `${PRODUCT_WGSL}
@group(0) @binding(0) var<storage, read> a: array<vec4<f32>>;
@group(0) @binding(1) var<storage, read> b: array<vec4<f32>>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Product;
@group(0) @binding(4) var<storage, read> d: array<vec4<f32>>;
override ADD: bool;
var<workgroup> sums: array<array<vec4<f32>, ${TILE * TILE / 4}>, ${SLICES}>;

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let tile = w.y * groups.x + w.x;
  let across = (p.n + ${TILE - 1}u) / ${TILE}u;
  let down = (p.m + ${TILE - 1}u) / ${TILE}u;
  let which = tile / (across * down);
  if (which >= p.batch) {
    return;
  }
  let tile_row = tile / across % down * ${TILE}u;
  let tile_column = tile % across * ${TILE}u;
  let slice = t / 16u;
  let first_row = tile_row + t % 16u / 4u * 4u;
  let first_column = tile_column + t % 4u * 4u;
  let m4 = p.m / 4u;
  let n4 = p.n / 4u;
  let k4 = p.k / 4u;
  let a_base = which * p.a_stride / 4u;
  let b_base = which * p.b_stride / 4u;
  ${rows}
  ${columns}
  ${unroll(4, (i) => `var c${i} = vec4<f32>();`)}
  var q = slice;
  for (; q + ${(turns - 1) * SLICES}u < ${steps}; q += ${turns * SLICES}u) {
    ${unroll(turns, (u) => step(layout, `(q + ${u * SLICES}u)`))}
  }
  for (; q < ${steps}; q += ${SLICES}u) {
    ${step(layout, "q")}
  }
  // [slice][row][quad of columns]
  ${unroll(4, (i) => `sums[slice][(t % 16u / 4u * 4u + ${i}u) * 4u + t % 4u] = c${i};`)}
  workgroupBarrier();
  let row = tile_row + t / 4u;
  let column = tile_column / 4u + t % 4u;
  if (t < ${TILE * TILE / 4}u && row < p.m && column < n4) {
    var total = sums[0][t];
    ${unroll(SLICES - 1, (s) => `total += sums[${s + 1}][t];`)}
    let at = which * (p.c_stride / 4u) + row * n4 + column;
    var value = p.alpha * total;
    if (ADD) {
      value += d[at];
    }
    c[at] = value;
  }
}
`;
}

const kernels = new Map<Layout, Kernel>();

/** Queues a product that `fitsNarrow`. */
export function narrowMatmul(product: Product): void {
  const { a, b, add, out, layout } = product;
  let found = kernels.get(layout);
  if (!found) kernels.set(layout, found = kernel(`matmul_${layout}_narrow`, source(layout)));
  out.device.dispatch(
    found,
    [a, b, out, productUniform(product), add ?? a],
    gridOf(tilesOf(product)),
    { ADD: add ? 1 : 0 },
    flopsOf(product),
  );
}
