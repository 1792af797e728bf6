/**
 * The kernel behind arithmetic: two operands, four operations, broadcasting.
 *
 * @module
 */
import { uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, sameShape, showShape } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import code from "./elementwise.wgsl" with { type: "text" };

const elementwiseKernel = kernel("elementwise", code);

const OPS = { add: 0, sub: 1, mul: 2, div: 3, first: 4 } as const;

/** Strides of `shape` seen at `rank` axes of the result: 0 where it is stretched. */
function stridesIn(shape: readonly number[], rank: number): number[] {
  const strides = new Array<number>(rank).fill(0);
  let stride = 1;
  for (let axis = shape.length - 1; axis >= 0; axis--) {
    if (shape[axis] !== 1) strides[rank - shape.length + axis] = stride;
    stride *= shape[axis];
  }
  return strides;
}

/** Merges neighbouring axes that both operands walk alike, so that four axes are enough for any practical case. */
function mergeAxes(
  shape: readonly number[],
  a: number[],
  b: number[],
): { shape: number[]; a: number[]; b: number[] } {
  const out = { shape: [1], a: [0], b: [0] };
  for (let axis = 0; axis < shape.length; axis++) {
    if (shape[axis] === 1) continue;
    const last = out.shape.length - 1;
    const mergeable = out.shape[last] !== 1 &&
      out.a[last] === a[axis] * shape[axis] && out.b[last] === b[axis] * shape[axis];
    if (mergeable || out.shape[last] === 1) {
      out.shape[last] *= shape[axis];
      out.a[last] = a[axis];
      out.b[last] = b[axis];
    } else {
      out.shape.push(shape[axis]);
      out.a.push(a[axis]);
      out.b.push(b[axis]);
    }
  }
  return out;
}

function padded(list: number[], fill: number): number[] {
  return [...new Array<number>(4 - list.length).fill(fill), ...list];
}

/**
 * `a ∘ b`, both stretched to `shape`: what arithmetic is made of. Not tracked.
 *
 * @param op the operation; "first" gives `a`, stretched
 * @param shape a shape that both operands broadcast to
 */
export function elementwise(
  op: keyof typeof OPS,
  a: Tensor,
  b: Tensor,
  shape: readonly number[],
): Tensor {
  checkDType(op, a, "f32", "the first operand");
  checkDType(op, b, "f32", "the second operand");
  const out = empty(a.device, shape);
  const rank = shape.length;
  const merged = mergeAxes(shape, stridesIn(a.shape, rank), stridesIn(b.shape, rank));
  if (merged.shape.length > 4) {
    throw new RangeError(
      `Cannot ${op} ${showShape(a.shape)} and ${
        showShape(b.shape)
      }: broadcasting alternates over more than 4 groups of axes; reshape the operands first`,
    );
  }
  const broadcast = !(sameShape(a.shape, shape) && sameShape(b.shape, shape));
  const layout = uniform(
    ...padded(merged.shape, 1),
    ...padded(merged.a, 0),
    ...padded(merged.b, 0),
    out.size,
  );
  a.device.dispatch(elementwiseKernel, [a, b, out, layout], gridOf(Math.ceil(out.size / 64)), {
    OP: OPS[op],
    BROADCAST: broadcast ? 1 : 0,
  });
  return out;
}

/** `x` stretched to `shape`. Not tracked: gradients use it. */
export function broadcastTo(x: Tensor, shape: readonly number[]): Tensor {
  return elementwise("first", x, x, shape);
}
