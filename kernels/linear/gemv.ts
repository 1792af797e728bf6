/**
 * Products of a few rows with a transposed matrix, `x · Wᵀ`: what a linear layer computes for each generated token. Every weight is
 * read once, so that the time is that of reading W. `matmul` comes here by itself.
 *
 * On a GPU, LANES neighbouring invocations share COLUMNS rows of W and load them a vector at a time, UNROLL vectors ahead; the sums
 * are combined by subgroup operations where subgroups have 32 lanes, in workgroup memory elsewhere. On software Vulkan an
 * invocation computes its rows of W alone, from textures.
 *
 * @module
 */
import { type Binding, texels } from "../../core/binding.ts";
import type { Device } from "../../core/device.ts";
import { gridOf } from "../../core/grid.ts";
import { type Kernel, kernel } from "../../core/kernel.ts";
import type { Tensor } from "../../core/tensor.ts";
import { TEXEL_WGSL } from "../../core/texels.ts";
import { type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import { unroll } from "./unroll.ts";

/** So many rows of x at most: beyond, the tiles of `matmul` are faster. */
export const GEMV_ROWS = 8;

/** How a matrix-vector kernel is built. */
export interface GemvPlan {
  /** What combines the lanes' sums. "texels" has one lane, and runs on software Vulkan. */
  readonly reduce: "subgroup" | "workgroup" | "texels";
  /** Invocations that share a row of W; a power of two, exactly the subgroup's size with "subgroup". */
  readonly lanes: number;
  /** Rows of W (columns of the result) for each group of lanes. */
  readonly columns: number;
  /** Vectors of each row of W that are loaded before the first is used. */
  readonly unroll: number;
}

/** Whether the kernels can take a product: x · Wᵀ, one matrix, at most eight rows, K in vectors of four. */
export function fitsGemv({ layout, m, k, batch }: Product): boolean {
  return layout === "nt" && batch === 1 && m <= GEMV_ROWS && k > 0 && k % 4 === 0;
}

/** The plan for a product of `m` rows on this device. */
export function chooseGemv(device: Device, { m, n, k }: Pick<Product, "m" | "n" | "k">): GemvPlan {
  const { type, subgroups } = device.adapter;
  if (type === "software") {
    // Columns share the loads of x, but two cores of eight lanes want some invocations. Measured on llvmpipe for N from 16 to 2048.
    const columns = n >= 1024 && m <= 4 ? 16 : n >= 128 ? 8 : n >= 64 ? 4 : 2;
    return { reduce: "texels", lanes: 1, columns, unroll: 1 };
  }
  let lanes = 32;
  while (lanes > k / 4) lanes /= 2;
  // Each vector of W meets `m` vectors of x: with several, two rows of W share them.
  return {
    reduce: subgroups && lanes === 32 ? "subgroup" : "workgroup",
    lanes,
    columns: m <= 2 ? 1 : 2,
    unroll: m <= 2 ? 8 : m <= 4 ? 4 : 2,
  };
}

/** Invocations of a workgroup. */
function threadsOf({ reduce }: GemvPlan): number {
  return reduce === "texels" ? 8 : 128;
}

/** The WGSL for `m` rows of x. */
function source(m: number, plan: GemvPlan, add: boolean): string {
  const { reduce, lanes, columns } = plan;
  const threads = threadsOf(plan);
  const software = reduce === "texels";
  const type = software ? "texture_2d<f32>" : "array<vec4<f32>>";
  const space = software ? "var" : "var<storage, read>";
  const load = (name: string, at: string) => software ? `texel(${name}, ${at})` : `${name}[${at}]`;
  const each = (line: (j: number, i: number) => string) =>
    unroll(columns, (j) => unroll(m, (i) => line(j, i)));
  // The vectors of one step first, all of them, so that their loads are under way together.
  const step = (count: number) =>
    unroll(
      count,
      (u) =>
        unroll(columns, (j) => `let w${u}_${j} = ${load("w", `w_row${j} + c + ${u * lanes}u`)};`),
    ) +
    "\n" +
    unroll(
      count,
      (u) =>
        unroll(m, (i) =>
          `let x${u}_${i} = ${load("x", `${i}u * k4 + c + ${u * lanes}u`)};\n` +
          unroll(columns, (j) => `s${j}_${i} = fma(w${u}_${j}, x${u}_${i}, s${j}_${i});`)),
    );
  const loop = plan.unroll === 1 ? "" : `
  for (; c + ${(plan.unroll - 1) * lanes}u < k4; c += ${plan.unroll * lanes}u) {
    ${step(plan.unroll)}
  }`;
  const total = (j: number, i: number) => `dot(s${j}_${i}, vec4<f32>(1.0))`;
  const combined = lanes === 1 || reduce === "texels"
    ? each((j, i) => `let y${j}_${i} = ${total(j, i)};`)
    : reduce === "subgroup"
    ? each((j, i) => `let y${j}_${i} = subgroupAdd(${total(j, i)});`)
    : `
  ${each((j, i) => `sums[${j * m + i}][t] = ${total(j, i)};`)}
  for (var half = ${lanes / 2}u; half > 0u; half /= 2u) {
    workgroupBarrier();
    if (lane < half) {
      ${each((j, i) => `sums[${j * m + i}][t] += sums[${j * m + i}][t + half];`)}
    }
  }
  ${each((j, i) => `let y${j}_${i} = sums[${j * m + i}][t];`)}`;
  const store = (j: number, i: number) =>
    `if (first + ${j}u < p.n) {
      let at = ${i}u * p.n + first + ${j}u;
      y[at] = p.alpha * y${j}_${i}${add ? " + d[at]" : ""};
    }`;
  return `${software ? TEXEL_WGSL : ""}${PRODUCT_WGSL}
@group(0) @binding(0) ${space} x: ${type};
@group(0) @binding(1) ${space} w: ${type};
@group(0) @binding(2) var<storage, read_write> y: array<f32>;
@group(0) @binding(3) var<uniform> p: Product;
${add ? "@group(0) @binding(4) var<storage, read> d: array<f32>;" : ""}
${
    reduce === "workgroup" && lanes > 1
      ? `var<workgroup> sums: array<array<f32, ${threads}>, ${columns * m}>;`
      : ""
  }

@compute @workgroup_size(${threads})
fn main(@builtin(workgroup_id) group: vec3<u32>, @builtin(num_workgroups) groups: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let lane = t % ${lanes}u;
  let first = ((group.y * groups.x + group.x) * ${threads / lanes}u + t / ${lanes}u) * ${columns}u;
  let k4 = p.k / 4u;
  // Beyond the last row of W the last one is loaded, and nothing stored.
  ${unroll(columns, (j) => `let w_row${j} = min(first + ${j}u, p.n - 1u) * k4;`)}
  ${each((j, i) => `var s${j}_${i} = vec4<f32>();`)}
  var c = lane;${loop}
  for (; c < k4; c += ${lanes}u) {
    ${step(1)}
  }
  ${combined}
  if (lane == 0u) {
    ${each(store)}
  }
}
`;
}

const kernels = new Map<string, Kernel>();

function kernelFor(m: number, plan: GemvPlan, add: boolean): Kernel {
  const key = [m, plan.reduce, plan.lanes, plan.columns, plan.unroll, add].join();
  let found = kernels.get(key);
  if (!found) kernels.set(key, found = kernel("gemv", source(m, plan, add)));
  return found;
}

/**
 * Queues a product that `fitsGemv`: `alpha · x · Wᵀ + add` with x f32 [rows ≤ 8, K], W f32 [N, K] and the result f32 [rows, N].
 *
 * @param product the operands: `a` is x, `b` is W
 * @param plan how; tests and benches choose, users do not
 */
export function gemv(product: Product, plan?: GemvPlan): void {
  const { a, b, add, out, m, n } = product;
  const { device } = out;
  const chosen = plan ?? chooseGemv(device, product);
  const bind = (t: Tensor): Binding => chosen.reduce === "texels" ? texels(t) : t;
  const bindings = [bind(a), bind(b), out, productUniform(product)];
  if (add) bindings.push(add);
  const perGroup = threadsOf(chosen) / chosen.lanes * chosen.columns;
  device.dispatch(
    kernelFor(m, chosen, add !== undefined),
    bindings,
    gridOf(Math.ceil(n / perGroup)),
  );
}
