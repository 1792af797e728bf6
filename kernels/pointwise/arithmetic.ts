/**
 * Addition, subtraction, multiplication and division, element by element, with broadcasting.
 *
 * @module
 */
import { kept, needsGrad, track } from "../../core/autograd.ts";
import { broadcastShape, sameShape } from "../../core/shape.ts";
import { type Tensor, viewOf } from "../../core/tensor.ts";
import { sum } from "../reduce/sum.ts";
import { elementwise } from "./elementwise.ts";
import { scale } from "./scale.ts";

function combine(op: "add" | "sub" | "mul" | "div", a: Tensor, b: Tensor): Tensor {
  return elementwise(op, a, b, broadcastShape(op, a.shape, b.shape));
}

/** Sums a gradient over the axes that broadcasting stretched. */
export function sumTo(grad: Tensor, shape: readonly number[]): Tensor {
  let g = grad;
  const missing = grad.shape.length - shape.length;
  for (let axis = grad.shape.length - 1; axis >= 0; axis--) {
    const wanted = axis < missing ? 1 : shape[axis - missing];
    if (wanted !== g.shape[axis]) g = sum(g, { axis, keepAxis: true });
  }
  return sameShape(g.shape, shape) ? g : viewOf(g, shape);
}

/**
 * `a + b`, element by element.
 *
 * @param a f32, any shape
 * @param b f32, a shape that broadcasts with `a`'s (NumPy's rule)
 * @returns f32, the broadcast shape
 * @throws {RangeError} if the shapes do not broadcast
 *
 * @example
 * ```ts
 * import { add, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2, 3, 4]), [2, 2]);
 * const row = tensor(device, new Float32Array([10, 20]), [2]);
 * console.log(await add(x, row).read()); // Float32Array(4) [ 11, 22, 13, 24 ]
 * ```
 */
export function add(a: Tensor, b: Tensor): Tensor {
  return track("add", combine("add", a, b), [a, b], (g, needs) => [
    needs[0] ? sumTo(g, a.shape) : null,
    needs[1] ? sumTo(g, b.shape) : null,
  ]);
}

/**
 * `a − b`, element by element; shapes as for `add`.
 *
 * @example
 * ```ts
 * import { openDevice, sub, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([1, 2]));
 * console.log(await sub(x, x).read()); // Float32Array(2) [ 0, 0 ]
 * ```
 */
export function sub(a: Tensor, b: Tensor): Tensor {
  return track("sub", combine("sub", a, b), [a, b], (g, needs) => [
    needs[0] ? sumTo(g, a.shape) : null,
    needs[1] ? scale(sumTo(g, b.shape), -1) : null,
  ]);
}

/**
 * `a · b`, element by element; shapes as for `add`.
 *
 * @example
 * ```ts
 * import { mul, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([2, 3]));
 * console.log(await mul(x, x).read()); // Float32Array(2) [ 4, 9 ]
 * ```
 */
export function mul(a: Tensor, b: Tensor): Tensor {
  return track("mul", combine("mul", a, b), [a, b], (g, needs) => [
    needs[0] ? sumTo(combine("mul", g, kept(b)), a.shape) : null,
    needs[1] ? sumTo(combine("mul", g, kept(a)), b.shape) : null,
  ], [...needsGrad(b) ? [a] : [], ...needsGrad(a) ? [b] : []]);
}

/**
 * `a / b`, element by element; shapes as for `add`.
 *
 * @example
 * ```ts
 * import { div, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([2, 3]));
 * console.log(await div(x, x).read()); // Float32Array(2) [ 1, 1 ]
 * ```
 */
export function div(a: Tensor, b: Tensor): Tensor {
  const out = combine("div", a, b);
  return track("div", out, [a, b], (g, needs) => {
    const da = combine("div", g, b); // d(a/b)/da = 1/b
    return [
      needs[0] ? sumTo(da, a.shape) : null,
      needs[1] ? scale(sumTo(combine("mul", da, out), b.shape), -1) : null, // d(a/b)/db = −(a/b)/b
    ];
  });
}
