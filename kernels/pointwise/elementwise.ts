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
import { KernelMemo, rowsGrid } from "../quads.ts";
import code from "./elementwise.wgsl" with { type: "text" };
import groupsCode from "./elementwise_groups.wgsl" with { type: "text" };

const elementwiseKernel = kernel("elementwise", code);

/** An operand of groups of four: its elements, or one that all of a group share. */
function operandCode(name: string, binding: number, stride: number): string {
  const at = `@group(0) @binding(${binding}) var<storage, read> ${name}`;
  return stride === 0
    ? `${at}: array<f32>;
fn ${name}_at(row: u32, k: u32) -> vec4<f32> { return vec4<f32>(${name}[row]); }\n`
    : `${at}: array<vec4<f32>>;
fn ${name}_at(row: u32, k: u32) -> vec4<f32> { return ${name}[row / 4u + k]; }\n`;
}

const groupsKernel = new KernelMemo((aStride: number, bStride: number) =>
  kernel(
    "elementwise",
    `${operandCode("a", 0, aStride)}${operandCode("b", 1, bStride)}
@group(0) @binding(2) var<storage, read_write> out: array<vec4<f32>>;
@group(0) @binding(3) var<uniform> walk: Layout;\n` + groupsCode,
  )
);

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

/** The axes of a result, and how far each operand moves along them. */
interface Walk {
  readonly shape: number[];
  readonly a: number[];
  readonly b: number[];
}

/** Merges neighbouring axes that both operands walk alike, so that four axes are enough for any practical case. */
function mergeAxes(
  shape: readonly number[],
  a: number[],
  b: number[],
): Walk {
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

function padded(list: readonly number[], fill: number, length = 4): number[] {
  return [...new Array<number>(length - list.length).fill(fill), ...list];
}

/** Invocations of a workgroup that takes groups of four. */
const THREADS = 256;

/** Queues the kernel for groups of four; `false` where rows are not whole groups, and on software Vulkan. */
function runGroups(op: keyof typeof OPS, a: Tensor, b: Tensor, out: Tensor, walk: Walk): boolean {
  const length = walk.shape.at(-1)!;
  const rows = out.size / length;
  if (out.device.adapter.type === "software" || (rows > 1 && length % 4 !== 0)) return false;
  const groups = Math.ceil(length / 4);
  const { grid, LANES, ROWS } = rowsGrid(rows, groups, THREADS);
  const layout = uniform(
    ...padded(walk.shape.slice(0, -1), 1, 3),
    groups,
    ...padded(walk.a.slice(0, -1), 0, 3),
    rows,
    ...padded(walk.b.slice(0, -1), 0, 3),
  );
  const chosen = groupsKernel.get(walk.a.at(-1)!, walk.b.at(-1)!);
  const own = rows === 1 ? gridOf(Math.ceil(groups / THREADS)) : grid;
  out.device.dispatch(chosen, [a, b, out, layout], own, { OP: OPS[op], LANES, ROWS });
  return true;
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
  if (out.size === 0 || runGroups(op, a, b, out, merged)) return out;
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
