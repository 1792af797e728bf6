/**
 * Rows turned by a Walsh-Hadamard matrix, between factors for their columns: what is large in a few numbers becomes a little larger in
 * many, and rounds better. QuaRot (Ashkboos et al., arXiv 2404.00456) does so before products whose inputs have outliers.
 *
 * @module
 */
import { track } from "../../core/autograd.ts";
import { floatBits, uniform } from "../../core/binding.ts";
import { gridOf } from "../../core/grid.ts";
import { kernel } from "../../core/kernel.ts";
import { checkDType, checkIsShape, rowsAndColumns } from "../../core/shape.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { KernelMemo } from "../quads.ts";
import code from "./rotate.wgsl" with { type: "text" };

const rotateKernel = kernel("rotate", code);

/** Numbers that software Vulkan turns in registers, at most; larger blocks are turned in two passes. */
const MOST_RADIX = 64;

/** Numbers that are turned together, at most. */
const MOST_SIZE = 512;

/** Invocations of a workgroup, at most. */
const MOST_LANES = 64;

/** How rows are turned. */
export interface Rotation {
  /** f32 [columns]: what each column is multiplied by first. */
  readonly before: Tensor;
  /** f32 [columns]: what each is multiplied by afterwards. */
  readonly after: Tensor;
  /** Neighbours that are turned together: a power of two that divides the columns, 512 at most. */
  readonly size: number;
}

/** The largest size of blocks for rows of so many columns: a power of two that divides them, 512 at most. */
export function rotationSize(columns: number): number {
  let size = 1;
  while (size < MOST_SIZE && columns % (2 * size) === 0) size *= 2;
  return size;
}

/** Throws a RangeError unless a size is a power of two, 512 at most, that divides the columns. */
function checkSize(size: number, columns: number): void {
  const log = Math.log2(size);
  if (Number.isInteger(log) && log >= 0 && size <= MOST_SIZE && columns % size === 0) return;
  throw new RangeError(
    `Cannot turn rows of ${columns} numbers in blocks of ${size}: wanted a power of two that divides them, ` +
      `${MOST_SIZE} at most, such as ${rotationSize(columns)}`,
  );
}

/** WGSL of a pass over `radix` numbers that are `stride` apart, all in registers: no invocation waits for another. */
function passCode(radix: number, stride: number, first: boolean, last: boolean): string {
  const lines: string[] = [];
  for (let j = 0; j < radix; j++) {
    const factor = first ? ` * before[column + ${j * stride}u]` : "";
    lines.push(`let a1_${j} = x[at + ${j * stride}u]${factor};`);
  }
  for (let half = 1; half < radix; half *= 2) {
    for (let j = 0; j < radix; j++) {
      const [from, to] = [`a${half}_`, `a${2 * half}_`];
      const pair = j & half
        ? `${from}${j - half} - ${from}${j}`
        : `${from}${j} + ${from}${j + half}`;
      lines.push(`let ${to}${j} = ${pair};`);
    }
  }
  for (let j = 0; j < radix; j++) {
    const factor = last ? ` * params.unit * after[column + ${j * stride}u]` : "";
    lines.push(`out[at + ${j * stride}u] = a${radix}_${j}${factor};`);
  }
  return `
struct Params { count: u32, columns: u32, unit: f32 }
@group(0) @binding(0) var<storage, read> x: array<f32>;
@group(0) @binding(1) var<storage, read_write> out: array<f32>;
@group(0) @binding(2) var<uniform> params: Params;
${first ? "@group(0) @binding(3) var<storage, read> before: array<f32>;" : ""}
${last ? `@group(0) @binding(${first ? 4 : 3}) var<storage, read> after: array<f32>;` : ""}
@compute @workgroup_size(16)
fn main(@builtin(workgroup_id) w: vec3<u32>, @builtin(num_workgroups) n: vec3<u32>,
        @builtin(local_invocation_index) t: u32) {
  let i = (w.y * n.x + w.x) * 16u + t;
  if (i >= params.count) { return; }
  let at = i / ${stride}u * ${stride * radix}u + i % ${stride}u;
  let column = at % params.columns;
  ${lines.join("\n  ")}
}
`;
}

const passes = new KernelMemo((radix: number, stride: number, first: number, last: number) =>
  kernel("rotate_pass", passCode(radix, stride, first === 1, last === 1))
);

/** Queues the turning as software Vulkan does it: barriers cost it more than to go through memory twice. */
function turnInPasses(x: Tensor, { before, after, size }: Rotation): Tensor {
  const { device } = x;
  let [from, stride] = [x, 1];
  do {
    const radix = Math.min(MOST_RADIX, size / stride);
    const [first, last] = [stride === 1, stride * radix === size];
    const out = empty(device, x.shape);
    const count = x.size / radix;
    const params = uniform(count, before.size, floatBits(1 / Math.sqrt(size)));
    const factors = [...(first ? [before] : []), ...(last ? [after] : [])];
    device.dispatch(
      passes.get(radix, stride, first ? 1 : 0, last ? 1 : 0),
      [from, out, params, ...factors],
      gridOf(Math.ceil(count / 16)),
    );
    if (from !== x) device.free(from.storage);
    [from, stride] = [out, stride * radix];
  } while (stride < size);
  return from;
}

/** Queues the turning. Not tracked. */
function turn(x: Tensor, rotation: Rotation): Tensor {
  const { device } = x;
  if (device.adapter.type === "software") return turnInPasses(x, rotation);
  const { before, after, size } = rotation;
  const out = empty(device, x.shape);
  const blocks = x.size / size;
  device.dispatch(
    rotateKernel,
    [x, before, after, out, uniform(blocks, before.size / size, floatBits(1 / Math.sqrt(size)))],
    gridOf(blocks),
    { SIZE: size, LANES: Math.max(1, Math.min(MOST_LANES, size / 2)) },
  );
  return out;
}

/**
 * `((x ⊙ before) · H) ⊙ after` in blocks of columns, with the Walsh-Hadamard matrix H divided by the root of its size: it is symmetric
 * and its own inverse, so with factors swapped and inverted the result goes back to x. Gradients flow to x, not to the factors.
 *
 * @param x f32 [..., columns]
 * @param rotation factors, and the size of blocks
 * @returns f32 of x's shape
 * @throws {RangeError} if the size is no power of two that divides the columns, or the factors are not one for each column
 *
 * @example An outlier, spread
 * ```ts
 * import { openDevice, rotate, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const ones = tensor(device, new Float32Array(4).fill(1));
 * const x = tensor(device, new Float32Array([8, 0, 0, 0]), [1, 4]);
 * console.log(await rotate(x, { before: ones, after: ones, size: 4 }).read()); // Float32Array(4) [ 4, 4, 4, 4 ]
 * ```
 */
export function rotate(x: Tensor, rotation: Rotation): Tensor {
  const { before, after, size } = rotation;
  checkDType("turn rows", x, "f32", "x");
  const [, columns] = rowsAndColumns(x);
  checkIsShape("turn rows", before, [columns], "before");
  checkIsShape("turn rows", after, [columns], "after");
  checkSize(size, columns);
  const back = { before: after, after: before, size };
  return track("rotate", turn(x, rotation), [x], (g) => [turn(g, back)]);
}
