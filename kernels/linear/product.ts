/**
 * A matrix product as its kernels see it: C = α · A·B (+ D), for each matrix of a batch.
 *
 * @module
 */
import { floatBits, type Uniform, uniform } from "../../core/binding.ts";
import type { Tensor } from "../../core/tensor.ts";

/** Which operand is stored transposed. nn: A [M,K], B [K,N]. nt: B [N,K]. tn: A [K,M]. */
export type Layout = "nn" | "nt" | "tn" | "tt";

/** One product, or a batch of products. */
export interface Product {
  readonly a: Tensor;
  readonly b: Tensor;
  /** Added to the product, of the result's shape. */
  readonly add: Tensor | undefined;
  readonly out: Tensor;
  readonly layout: Layout;
  readonly m: number;
  readonly n: number;
  readonly k: number;
  readonly batch: number;
  /** Whether every product of the batch has a B of its own. */
  readonly ownB: boolean;
  readonly alpha: number;
}

/** WGSL of the parameters that every matmul kernel takes last. Strides are in elements, from one product to the next. */
export const PRODUCT_WGSL = `
struct Product {
  m: u32, n: u32, k: u32, batch: u32,
  a_stride: u32, b_stride: u32, c_stride: u32, alpha: f32,
}
`;

/** The parameters as a uniform. */
export function productUniform(p: Product): Uniform {
  return uniform(
    p.m,
    p.n,
    p.k,
    p.batch,
    p.m * p.k,
    p.ownB ? p.n * p.k : 0,
    p.m * p.n,
    floatBits(p.alpha),
  );
}

/** Floating-point operations of a product: what profiles count. */
export function flopsOf({ m, n, k, batch }: Product): number {
  return 2 * batch * m * n * k;
}
