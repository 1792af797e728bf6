/**
 * Matrix products.
 *
 * @module
 */
import { isTracking, kept, needsGrad, noGrad, track } from "../../core/autograd.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, sameShape, showShape, sizeOf } from "../../core/shape.ts";
import { empty, type Tensor, viewOf } from "../../core/tensor.ts";
import { cast } from "../pointwise/cast.ts";
import { fitsGemv, gemv } from "./gemv.ts";
import anyCode from "./matmul_any.wgsl" with { type: "text" };
import { fitsNarrow, narrowMatmul } from "./narrow.ts";
import { flopsOf, type Layout, type Product, PRODUCT_WGSL, productUniform } from "./product.ts";
import { fitsTexels, texelMatmul } from "./texel_tile.ts";
import { fitsHalves, fitsTiles, tileMatmul } from "./tile.ts";

const anyKernel = kernel("matmul_any", PRODUCT_WGSL + anyCode);

/** How `matmul` reads its operands, and what it does with the product. */
export interface MatmulOptions {
  /** Read A as [..., K, M]. */
  readonly transposeA?: boolean;
  /** Read B as [..., N, K]. */
  readonly transposeB?: boolean;
  /** A factor of the product; 1 by default. */
  readonly alpha?: number;
  /** f32 of the result's shape, added to the product. */
  readonly add?: Tensor;
}

/** Which kernel takes a product; tests and benches choose, users do not. */
export type MatmulVariant = "any" | "decode" | "gemv" | "narrow" | "texels" | "tiles";

/** The variant for this product on this device. */
export function chooseVariant(product: Product): MatmulVariant {
  const few = fitsGemv(product);
  if (product.b.dtype === "f16") {
    // Software Vulkan reads floats from textures: widening once beats widening in the loop.
    if (product.out.device.adapter.type === "software") return "decode";
    return few ? "gemv" : fitsHalves(product) ? "tiles" : "decode";
  }
  if (product.out.device.adapter.type === "software") {
    // The texel tiles have one row or a multiple of four; where these waste nothing, they are as fast as gemv.
    if (few && (product.m % 4 !== 0 || !fitsTexels(product))) return "gemv";
    return fitsTexels(product) ? "texels" : "any";
  }
  if (few) return "gemv";
  if (fitsNarrow(product)) return "narrow";
  return fitsTiles(product) ? "tiles" : "any";
}

/** Queues a product with a given variant. */
export function runProduct(product: Product, variant: MatmulVariant): void {
  if (variant === "decode") return decodeAndMultiply(product);
  if (variant === "gemv") return gemv(product);
  if (variant === "narrow") return narrowMatmul(product);
  if (variant === "texels") return texelMatmul(product);
  if (variant === "tiles") return tileMatmul(product);
  const { a, b, add, out, layout } = product;
  out.device.dispatch(
    anyKernel,
    [a, b, add ?? a, out, productUniform(product)],
    gridOf(Math.ceil(out.size / 64)),
    {
      TRANSPOSE_A: layout[0] === "t" ? 1 : 0,
      TRANSPOSE_B: layout[1] === "t" ? 1 : 0,
      ADD: add ? 1 : 0,
    },
    flopsOf(product),
  );
}

/** The product with B in 32 bits, which lives as long as this product. */
function decodeAndMultiply(product: Product): void {
  const dense = noGrad(() => cast(product.b, "f32"));
  const decoded = { ...product, b: dense };
  runProduct(decoded, chooseVariant(decoded));
  product.out.device.free(dense.storage);
}

/** Throws if B is in 16 bits and a gradient should flow into it. */
function checkHalves(b: Tensor): void {
  if (b.dtype !== "f16" || !isTracking() || !needsGrad(b)) return;
  throw new TypeError(
    'Cannot differentiate a product by its f16 operand: cast it to f32 first, or load the model with weights: "f32"',
  );
}

/** Checks the operands and names the sizes. The result's memory is taken here. */
function product(a: Tensor, b: Tensor, options: MatmulOptions): Product {
  const { transposeA = false, transposeB = false, alpha = 1, add } = options;
  checkDType("multiply", a, "f32", "an operand");
  checkDType("multiply", b, ["f32", "f16"], "an operand");
  checkHalves(b);
  if (a.shape.length < 2 || b.shape.length < 2) {
    throw new RangeError(
      `Cannot multiply ${showShape(a.shape)} by ${
        showShape(b.shape)
      }: both need at least 2 axes, reshape them`,
    );
  }
  const [aRows, aColumns] = a.shape.slice(-2);
  const [bRows, bColumns] = b.shape.slice(-2);
  const k = transposeA ? aRows : aColumns;
  const inner = transposeB ? bColumns : bRows;
  if (k !== inner) {
    throw new RangeError(
      `Cannot multiply ${showShape(a.shape)}${transposeA ? "ᵀ" : ""} by ${showShape(b.shape)}${
        transposeB ? "ᵀ" : ""
      }: inner sizes are ${k} and ${inner}`,
    );
  }
  const leading = a.shape.slice(0, -2);
  const ownB = b.shape.length > 2;
  if (ownB && !sameShape(leading, b.shape.slice(0, -2))) {
    throw new RangeError(
      `Cannot multiply ${showShape(a.shape)} by ${showShape(b.shape)}: the leading axes differ`,
    );
  }
  let m = transposeA ? aColumns : aRows;
  const n = transposeB ? bRows : bColumns;
  let batch = sizeOf(leading);
  const out = empty(a.device, [...leading, m, n]);
  if (!ownB && !transposeA) {
    // One B for all: the batch is just more rows.
    m *= batch;
    batch = 1;
  }
  if (add) {
    checkDType("add to a product", add, "f32", "add");
    checkIsShape("add to a product", add, out.shape, "add");
  }
  const layout = `${transposeA ? "t" : "n"}${transposeB ? "t" : "n"}` as Layout;
  return { a, b, add, out, layout, m, n, k, batch, ownB, alpha };
}

/**
 * `alpha · A·B + add`. Leading axes are a batch; a B of two axes serves the whole batch.
 *
 * @param a f32 [..., M, K], or [..., K, M] with `transposeA`
 * @param b f32 [..., K, N] or [K, N], or with `transposeB` [..., N, K] or [N, K]; or f16, for a matrix that is not trained
 * @param options transposes, a factor, and what is added
 * @returns f32 [..., M, N]
 * @throws {RangeError} if inner sizes or leading axes differ
 * @throws {TypeError} if a gradient should flow into an f16 operand
 *
 * @example
 * ```ts
 * import { matmul, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const a = tensor(device, new Float32Array([1, 2, 3, 4]), [2, 2]);
 * console.log(await matmul(a, a).read(), await matmul(a, a, { transposeB: true }).read());
 * // Float32Array(4) [ 7, 10, 15, 22 ] Float32Array(4) [ 5, 11, 11, 25 ]
 * ```
 */
export function matmul(a: Tensor, b: Tensor, options: MatmulOptions = {}): Tensor {
  const p = product(a, b, options);
  runProduct(p, chooseVariant(p));
  const { transposeA: ta = false, transposeB: tb = false, alpha = 1, add } = options;
  const inputs = add ? [a, b, add] : [a, b];
  const saved = [...needsGrad(b) ? [a] : [], ...needsGrad(a) ? [b] : []];
  return track("matmul", p.out, inputs, (g, needs, earlier) =>
    [
      // C = α·A·B  gives  dA = α·dC·Bᵀ  and  dB = α·Aᵀ·dC, transposed where the operand is.
      !needs[0]
        ? null
        : ta
        ? matmul(cast(kept(b), "f32"), g, { transposeA: tb, transposeB: true, alpha })
        : matmul(g, kept(b), { transposeB: !tb, alpha, add: earlier.take(0) }),
      !needs[1] ? null : gradientOfB(a, b, g, ta, tb, alpha),
      g,
    ].slice(0, inputs.length), saved);
}

function gradientOfB(
  a: Tensor,
  b: Tensor,
  g: Tensor,
  ta: boolean,
  tb: boolean,
  alpha: number,
): Tensor {
  // A B that serves a whole batch gets the sum over it: one product over all rows.
  const flat = (t: Tensor) => flatten(t, b.shape.length === 2);
  if (b.shape.length === 2 && a.shape.length > 2 && ta) {
    throw new RangeError(
      "Cannot differentiate a product of transposed batches with one B: give B the batch's axes",
    );
  }
  const input = flat(kept(a));
  return tb
    ? matmul(flat(g), input, { transposeA: true, transposeB: ta, alpha })
    : matmul(input, flat(g), { transposeA: !ta, alpha });
}

function flatten(t: Tensor, wanted: boolean): Tensor {
  if (!wanted || t.shape.length === 2) return t;
  const columns = t.shape.at(-1)!;
  return viewOf(t, [t.size / columns, columns]);
}
