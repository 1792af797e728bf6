/**
 * Matmul for software Vulkan: operands are textures, each invocation computes a tile of the result in named variables, and there
 * is no workgroup memory. Measured on llvmpipe (Mesa 22.3, two cores) at 512³: 26 to 29 GFLOP/s, against 2 with the tiles that a
 * GPU wants.
 *
 * @module
 */
import { texels } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { TEXEL_WGSL } from "../../core/texels.ts";
import { flopsOf, type Layout, type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import { unroll } from "./unroll.ts";

/** Rows and columns of the result that one invocation computes, multiples of 4 (rows: also 1). */
interface Tile {
  readonly rows: number;
  readonly columns: number;
  /** Whether the eight lanes of a workgroup take the same rows: each loads some of A, and all get it by broadcast. */
  readonly shared: boolean;
}

/** Lanes of a workgroup, and of a vector of software Vulkan. */
const LANES = 8;

/** Whether the kernels can take a product: they load four elements at a time along the contiguous axes. */
export function fitsTexels({ layout, m, n, k }: Product): boolean {
  if (n % 4 !== 0) return false;
  if (layout === "nt" || layout === "nn") return k % 4 === 0;
  return layout === "tn" && m % 4 === 0;
}

const XYZW = "xyzw";

/** The same for shared rows. A load costs as much as dozens of FMAs, a broadcast as much as one. */
function sharedStep(layout: Layout, { rows, columns }: Tile): string {
  const quads = columns / 4;
  if (layout === "tn") {
    // One k; each lane loads a texel of four rows.
    const row = (i: number, j: number) => `c${i}_${j} = fma(vec4<f32>(x), b${j}, c${i}_${j});`;
    const broadcast = (i: number) =>
      `let x = subgroupBroadcast(own${Math.floor(i / 4 / LANES)}.${XYZW[i & 3]}, ${
        (i >> 2) % LANES
      }u);`;
    return `
    ${unroll(rows / 4 / LANES, (i) => `let own${i} = texel(a, a_base + k * m4 + row${i});`)}
    ${unroll(quads, (j) => `let b${j} = texel(b, b_base + k * n4 + column${j});`)}
    ${unroll(rows, (i) => `{ ${broadcast(i)} ${unroll(quads, (j) => row(i, j))} }`)}`;
  }
  const own = (i: number, q: number) =>
    `let a${q} = subgroupBroadcast(own${Math.floor(i / LANES)}.${XYZW[q]}, ${i % LANES}u);`;
  const loads = unroll(rows / LANES, (i) => `let own${i} = texel(a, a_row${i} + k);`);
  if (layout === "nt") {
    const dot = (i: number, j: number) => {
      const c = `c${i}_${j >> 2}.${XYZW[j & 3]}`;
      return `${c} = fma(a0, b${j}.x, fma(a1, b${j}.y, fma(a2, b${j}.z, fma(a3, b${j}.w, ${c}))));`;
    };
    return `
    ${loads}
    ${unroll(columns, (j) => `let b${j} = texel(b, b_row${j} + k);`)}
    ${
      unroll(rows, (i) =>
        `{ ${unroll(4, (q) => own(i, q))} ${unroll(columns, (j) => dot(i, j))} }`)
    }`;
  }
  const row = (i: number, j: number) =>
    `c${i}_${j} = fma(vec4<f32>(a0), b0_${j}, fma(vec4<f32>(a1), b1_${j},
      fma(vec4<f32>(a2), b2_${j}, fma(vec4<f32>(a3), b3_${j}, c${i}_${j}))));`;
  return `
    ${loads}
    ${
    unroll(4, (q) =>
      unroll(quads, (j) =>
        `let b${q}_${j} = texel(b, b_base + (4u * k + ${q}u) * n4 + column${j});`))
  }
    ${
    unroll(rows, (i) => `{ ${unroll(4, (q) => own(i, q))} ${unroll(quads, (j) => row(i, j))} }`)
  }`;
}

/** The statements of one step along K; each layout loads differently. */
function step(layout: Layout, tile: Tile): string {
  if (tile.shared) return sharedStep(layout, tile);
  const { rows, columns } = tile;
  const quads = columns / 4;
  if (layout === "nt") {
    // Four k at once: a dot product of texels for every element.
    const dot = (i: number, j: number) => {
      const c = `c${i}_${j >> 2}.${XYZW[j & 3]}`;
      return `${c} = fma(a${i}.x, b${j}.x, fma(a${i}.y, b${j}.y, fma(a${i}.z, b${j}.z, fma(a${i}.w, b${j}.w, ${c}))));`;
    };
    return `
    ${unroll(columns, (j) => `let b${j} = texel(b, b_row${j} + k);`)}
    ${unroll(rows, (i) => `let a${i} = texel(a, a_row${i} + k);`)}
    ${unroll(rows, (i) => unroll(columns, (j) => dot(i, j)))}`;
  }
  if (layout === "nn") {
    // Four k of A in a texel; for each, a row of B.
    return `
    ${unroll(rows, (i) => `let a${i} = texel(a, a_row${i} + k);`)}
    ${
      unroll(4, (q) =>
        `{
      ${unroll(quads, (j) => `let b${j} = texel(b, b_base + (4u * k + ${q}u) * n4 + column${j});`)}
      ${
          unroll(
            rows,
            (i) =>
              unroll(quads, (j) =>
                `c${i}_${j} = fma(vec4<f32>(a${i}.${XYZW[q]}), b${j}, c${i}_${j});`),
          )
        }
    }`)
    }`;
  }
  // tn: one k; a texel of A holds four rows of the result.
  return `
    ${unroll(rows / 4, (i) => `let a${i} = texel(a, a_base + k * m4 + row${i});`)}
    ${unroll(quads, (j) => `let b${j} = texel(b, b_base + k * n4 + column${j});`)}
    ${
    unroll(rows, (i) =>
      unroll(quads, (j) =>
        `c${i}_${j} = fma(vec4<f32>(a${i >> 2}.${XYZW[i & 3]}), b${j}, c${i}_${j});`))
  }`;
}

/** Where each row and column of the tile is loaded from; beyond the edge the last one is loaded, and not stored. */
function addresses(layout: Layout, { rows, columns, shared }: Tile): string {
  const quads = columns / 4;
  const clampedRows = shared && layout === "tn"
    ? unroll(
      rows / 4 / LANES,
      (i) => `let row${i} = min(first_row / 4u + ${LANES * i}u + t, m4 - 1u);`,
    )
    : shared
    ? unroll(
      rows / LANES,
      (i) => `let a_row${i} = a_base + min(first_row + ${LANES * i}u + t, p.m - 1u) * k4;`,
    )
    : layout === "tn"
    ? unroll(rows / 4, (i) => `let row${i} = min(first_row / 4u + ${i}u, m4 - 1u);`)
    : unroll(rows, (i) => `let a_row${i} = a_base + min(first_row + ${i}u, p.m - 1u) * k4;`);
  const clampedColumns = layout === "nt"
    ? unroll(columns, (j) => `let b_row${j} = b_base + min(first_column + ${j}u, p.n - 1u) * k4;`)
    : unroll(quads, (j) => `let column${j} = min(first_column / 4u + ${j}u, n4 - 1u);`);
  return clampedRows + "\n" + clampedColumns;
}

/** Invocations along N; shared rows take whole workgroups. */
function acrossWgsl({ columns, shared }: Tile): string {
  const width = shared ? LANES * columns : columns;
  return `(p.n + ${width - 1}u) / ${width}u${shared ? ` * ${LANES}u` : ""}`;
}

function invocationsOf({ m, n, batch }: Product, { rows, columns, shared }: Tile): number {
  const across = shared ? Math.ceil(n / (LANES * columns)) * LANES : Math.ceil(n / columns);
  return batch * Math.ceil(m / rows) * across;
}

function source(layout: Layout, tile: Tile, add: boolean): string {
  const quads = tile.columns / 4;
  const store = (i: number, j: number) => `
    if (first_row + ${i}u < p.m && first_column + ${4 * j}u < p.n) {
      let at = which * p.c_stride / 4u + (first_row + ${i}u) * n4 + first_column / 4u + ${j}u;
      c[at] = p.alpha * c${i}_${j}${add ? " + texel(d, at)" : ""};
    }`;
  return `${TEXEL_WGSL}${PRODUCT_WGSL}
@group(0) @binding(0) var a: texture_2d<f32>;
@group(0) @binding(1) var b: texture_2d<f32>;
@group(0) @binding(2) var<storage, read_write> c: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> p: Product;
${add ? "@group(0) @binding(4) var d: texture_2d<f32>;" : ""}

@compute @workgroup_size(${LANES})
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * groups.x + w.x) * ${LANES}u + t;
  let across = ${acrossWgsl(tile)};
  let down = (p.m + ${tile.rows - 1}u) / ${tile.rows}u;
  let which = i / (across * down);
  if (which >= p.batch) {
    return;
  }
  let first_row = i / across % down * ${tile.rows}u;
  let first_column = i % across * ${tile.columns}u;
  let m4 = p.m / 4u;
  let n4 = p.n / 4u;
  let k4 = p.k / 4u;
  let a_base = which * p.a_stride / 4u;
  let b_base = which * p.b_stride / 4u;
  ${addresses(layout, tile)}
  ${unroll(tile.rows, (i) => unroll(quads, (j) => `var c${i}_${j} = vec4<f32>();`))}
  for (var k = 0u; k < ${layout === "tn" ? "p.k" : "k4"}; k++) {${step(layout, tile)}
  }
  ${unroll(tile.rows, (i) => unroll(quads, (j) => store(i, j)))}
}
`;
}

const kernels = new Map<string, Kernel>();

function kernelFor(layout: Layout, tile: Tile, add: boolean): Kernel {
  const key = `${layout} ${tile.rows}x${tile.columns} ${tile.shared} ${add}`;
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel(`matmul_${layout}`, source(layout, tile, add)));
  return found;
}

/** So many invocations keep two cores with vectors of eight lanes busy: larger tiles gain more than a third vector would. */
const ENOUGH = 16;

/** The same for shared rows, whose tiles are the largest. */
const ENOUGH_SHARED = 64;

/** The tile with shared rows: at 1024 rows it is 1.5 to 1.8 times as fast as 16x8 without, and no other shape was faster. */
const SHARED: Tile = { rows: 32, columns: 4, shared: true };

/** Shared tiles may compute so many times what is wanted: beyond, what the edges waste is more than sharing gains. */
const MOST_WASTE = 1.3;

/** Whether subgroups are a workgroup's lanes, and the tiles with shared rows fit the product. */
function fitsShared(product: Product): boolean {
  const { layout, m, n, batch, out } = product;
  if (!out.device.adapter.broadcast || layout === "tt") return false;
  const computed = invocationsOf(product, SHARED) * SHARED.rows * SHARED.columns;
  return computed <= MOST_WASTE * batch * m * n && invocationsOf(product, SHARED) >= ENOUGH_SHARED;
}

/** The largest tile that leaves enough invocations. */
function chooseTile(product: Product): Tile {
  if (fitsShared(product)) return SHARED;
  const { layout, m } = product;
  for (const [rows, columns] of [[16, 8], [8, 8], [4, 8]] as const) {
    const tile = { rows, columns, shared: false };
    const wasteful = rows >= 2 * m && rows > 4;
    if (!wasteful && invocationsOf(product, tile) >= ENOUGH) return tile;
  }
  return { rows: layout !== "tn" && m < 4 ? 1 : 4, columns: 4, shared: false };
}

/** Queues a product that `fitsTexels`. */
export function texelMatmul(product: Product): void {
  const { a, b, add, out, layout } = product;
  const tile = chooseTile(product);
  const bindings = [texels(a), texels(b), out, productUniform(product)];
  if (add) bindings.push(texels(add));
  out.device.dispatch(
    kernelFor(layout, tile, add !== undefined),
    bindings,
    gridOf(Math.ceil(invocationsOf(product, tile) / LANES)),
    undefined,
    flopsOf(product),
  );
}
