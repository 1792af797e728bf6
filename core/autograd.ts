/**
 * Reverse-mode differentiation. An op that computes `out` calls `track` with a rule that turns the gradient of `out` into the
 * gradients of its inputs; `backward` runs these rules from the last to the first.
 *
 * @module
 */
import type { Device } from "./device.ts";
import { uniform } from "./binding.ts";
import { constant } from "./constant.ts";
import { gridOf } from "./grid.ts";
import { kernel } from "./kernel.ts";
import { checkSameShape, showShape } from "./shape.ts";
import sumCode from "./sum.wgsl" with { type: "text" };
import { empty, type Tensor, viewOf } from "./tensor.ts";

/** The gradients that an op's inputs already have, from their later uses. */
export interface EarlierGradients {
  /**
   * Takes the gradient that input `i` has so far, if it has one: the rule then returns the sum. For kernels that can add
   * something to what they compute anyway, it saves the sum's own dispatch.
   */
  take(i: number): Tensor | undefined;
}

/**
 * The gradients of an op's inputs, in their order, from the gradient of its output. `needs[i]` says whether input `i` wants one;
 * where it does not, `null` saves the work. Most rules have no use for `earlier`: what they return is added to it.
 */
export type BackwardRule = (
  grad: Tensor,
  needs: readonly boolean[],
  earlier: EarlierGradients,
) => (Tensor | null)[];

/** How a tensor was computed. */
export interface Node {
  /** Grows with time, so that sorting by it sorts the graph. */
  readonly id: number;
  /** The op's name, for errors. */
  readonly label: string;
  /** What it was computed from. */
  readonly inputs: readonly Tensor[];
  /** Gives the inputs' gradients. */
  readonly rule: BackwardRule;
}

let nextId = 0;
let recording = true;

/** Whether a gradient must flow into this tensor. */
export function needsGrad(t: Tensor): boolean {
  return t.requiresGrad || t.node !== null;
}

/** Whether ops are being tracked: not inside `noGrad`. */
export function isTracking(): boolean {
  return recording;
}

/**
 * Notes how `out` was computed, if any input needs a gradient.
 *
 * @param label the op's name, for errors
 * @param out the op's result
 * @param inputs the tensors that it was computed from
 * @param rule gives the inputs' gradients
 * @returns `out`
 */
export function track(
  label: string,
  out: Tensor,
  inputs: readonly Tensor[],
  rule: BackwardRule,
): Tensor {
  if (recording && inputs.some(needsGrad)) {
    out.node = { id: nextId++, label, inputs, rule };
  }
  return out;
}

/**
 * Runs `body` without noting how its tensors were computed: for evaluation and generation.
 *
 * @example
 * ```ts
 * import { mul, noGrad, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([2]));
 * x.requiresGrad = true;
 * console.log(noGrad(() => mul(x, x)).node); // null
 * ```
 */
export function noGrad<T>(body: () => T): T {
  const before = recording;
  recording = false;
  try {
    return body();
  } finally {
    recording = before;
  }
}

const sumKernel = kernel("sum", sumCode);

/** `a + b`, out of place: gradients may be shared between tensors, so none is ever changed. */
function sum(a: Tensor, b: Tensor): Tensor {
  checkSameShape("add the gradients", a, b);
  const out = empty(a.device, a.shape);
  const { size } = out;
  const quads = Math.ceil(size / 4);
  a.device.dispatch(sumKernel, [a, b, out, uniform(quads)], gridOf(Math.ceil(quads / 64)));
  return out;
}

/** The gradient of a loss with respect to itself. */
function one(device: Device): Tensor {
  return constant(device, "one", () => new Float32Array([1]));
}

/** The nodes that `root` depends on, the latest first. */
function graphOf(root: Tensor): { node: Node; out: Tensor }[] {
  const found = new Map<Node, Tensor>();
  const open = [root];
  for (let t = open.pop(); t; t = open.pop()) {
    if (!t.node || found.has(t.node)) continue;
    found.set(t.node, t);
    open.push(...t.node.inputs);
  }
  return [...found].map(([node, out]) => ({ node, out })).sort((a, b) => b.node.id - a.node.id);
}

/**
 * Computes the gradient of `loss` with respect to every tensor with `requiresGrad` that it depends on, and adds it to that
 * tensor's `grad`.
 *
 * @param loss a tensor of one element, or of any shape with `grad` given
 * @param grad the gradient to begin with; 1 by default
 * @throws {RangeError} if `loss` has more than one element and no `grad` is given
 * @throws {TypeError} if `loss` does not depend on any tensor with `requiresGrad`
 *
 * @example The derivative of x² at 3
 * ```ts
 * import { backward, mul, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([3]), []);
 * x.requiresGrad = true;
 * backward(mul(x, x));
 * console.log(await x.grad!.item()); // 6
 * ```
 */
export function backward(loss: Tensor, grad?: Tensor): void {
  if (!grad && loss.size !== 1) {
    throw new RangeError(
      `Cannot differentiate a tensor of shape ${
        showShape(loss.shape)
      }: reduce it to one element, or pass its gradient`,
    );
  }
  if (!needsGrad(loss)) {
    throw new TypeError(
      "Cannot differentiate: the loss does not depend on a tensor with requiresGrad (was it computed in noGrad?)",
    );
  }
  const grads = new Map<Tensor, Tensor>();
  const give = (t: Tensor, g: Tensor) => {
    const before = grads.get(t);
    grads.set(t, before ? sum(before, g) : g);
  };
  const take = (t: Tensor) => {
    const before = grads.get(t);
    grads.delete(t);
    return before;
  };
  give(loss, grad ?? viewOf(one(loss.device), loss.shape));
  noGrad(() => {
    for (const { node, out } of graphOf(loss)) {
      const g = grads.get(out);
      if (!g) continue;
      // The rule's result is final for `out` unless it is also a leaf, whose gradient is kept below.
      if (!out.requiresGrad) grads.delete(out);
      const given = node.rule(g, node.inputs.map(needsGrad), {
        take: (i) => take(node.inputs[i]),
      });
      if (given.length !== node.inputs.length) {
        throw new RangeError(
          `Cannot differentiate "${node.label}": its rule gave ${given.length} gradients for ${node.inputs.length} inputs`,
        );
      }
      node.inputs.forEach((input, index) => {
        const part = given[index];
        if (part && needsGrad(input)) {
          checkSameShape(`take the gradient of "${node.label}": input and gradient`, input, part);
          give(input, part);
        }
      });
    }
    for (const [t, g] of grads) {
      if (!t.requiresGrad) continue;
      t.grad = t.device.keep(t.grad ? sum(t.grad, g) : g);
      t.device.recorder?.leaves.add(t);
    }
  });
}
