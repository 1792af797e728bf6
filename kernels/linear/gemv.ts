/**
 * Products of a few rows with a transposed matrix, `x · Wᵀ`: what a linear layer computes for each generated token. `matmul` comes
 * here by itself. A GPU streams the weights (stream.ts); on software Vulkan an invocation computes its rows of W alone, from
 * textures.
 *
 * @module
 */
import { texels } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import { TEXEL_WGSL } from "../../core/texels.ts";
import { type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import { STREAM_ROWS, streamProduct } from "./stream_product.ts";
import { unroll } from "./unroll.ts";
import { denseFormat } from "./weight_format.ts";

/** Whether the kernels can take a product: x · Wᵀ, one matrix, at most eight rows, K in vectors of four. */
export function fitsGemv({ layout, m, k, batch }: Product): boolean {
  return layout === "nt" && batch === 1 && m <= STREAM_ROWS && k > 0 && k % 4 === 0;
}

/** Invocations of a workgroup on software Vulkan: the lanes of its vectors. */
const THREADS = 8;

/**
 * Rows of W for each invocation on software Vulkan: they share the loads of x, but two cores of eight lanes want some invocations.
 * Measured on llvmpipe for N from 16 to 2048.
 */
function chooseColumns({ m, n }: Product): number {
  return n >= 1024 && m <= 4 ? 16 : n >= 128 ? 8 : n >= 64 ? 4 : 2;
}

/** The WGSL for `m` rows of x and `columns` rows of W. */
function texelSource(m: number, columns: number, add: boolean): string {
  const each = (line: (j: number, i: number) => string) =>
    unroll(columns, (j) => unroll(m, (i) => line(j, i)));
  const store = (j: number, i: number) =>
    `if (first + ${j}u < p.n) {
      let at = ${i}u * p.n + first + ${j}u;
      y[at] = p.alpha * dot(s${j}_${i}, vec4<f32>(1.0))${add ? " + d[at]" : ""};
    }`;
  return `${TEXEL_WGSL}${PRODUCT_WGSL}
@group(0) @binding(0) var x: texture_2d<f32>;
@group(0) @binding(1) var w: texture_2d<f32>;
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> p: Product;
${add ? "@group(0) @binding(4) var<storage, read> d: array<f32>;" : ""}

@compute @workgroup_size(${THREADS})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let first = ((group.y * groups.x + group.x) * ${THREADS}u + t) * ${columns}u;
  let k4 = p.k / 4u;
  // Beyond the last row of W the last one is loaded, and nothing stored.
  ${unroll(columns, (j) => `let w_row${j} = min(first + ${j}u, p.n - 1u) * k4;`)}
  ${each((j, i) => `var s${j}_${i} = vec4<f32>();`)}
  for (var c = 0u; c < k4; c++) {
    ${unroll(columns, (j) => `let w${j} = texel(w, w_row${j} + c);`)}
    ${
    unroll(m, (i) =>
      `let x${i} = texel(x, ${i}u * k4 + c);
    ${unroll(columns, (j) => `s${j}_${i} = fma(w${j}, x${i}, s${j}_${i});`)}`)
  }
  }
  ${each(store)}
}
`;
}

const kernels = new Map<string, Kernel>();

/**
 * Queues a product that `fitsGemv` on software Vulkan, with so many rows of W for each invocation.
 */
export function texelGemv(product: Product, columns: number = chooseColumns(product)): void {
  const { a, b, add, out, m, n } = product;
  const key = [m, columns, add !== undefined].join();
  let found = kernels.get(key);
  if (!found) {
    found = kernel("gemv", texelSource(m, columns, add !== undefined));
    kernels.set(key, found);
  }
  const bindings = [texels(a), texels(b), out, productUniform(product)];
  if (add) bindings.push(add);
  out.device.dispatch(found, bindings, gridOf(Math.ceil(n / (THREADS * columns))));
}

/** Queues a product that `fitsGemv`. */
export function gemv(product: Product): void {
  const { a, b, add, out, m, n, k, alpha } = product;
  if (out.device.adapter.type === "software") return texelGemv(product);
  streamProduct({ x: a, m, formats: [denseFormat(b, [n, k])], outs: [out], add, alpha });
}
