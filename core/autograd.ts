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
  noGrad(() => {
    for (const [t, g] of propagate(loss, grad ?? viewOf(one(loss.device), loss.shape))) {
      t.grad = t.device.keep(t.grad ? sum(t.grad, g) : g);
      t.device.recorder?.leaves.add(t);
    }
  });
}

/** The gradients of all tensors with `requiresGrad` that `root` depends on, from the gradient of `root`. */
function propagate(root: Tensor, grad: Tensor): Map<Tensor, Tensor> {
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
  give(root, grad);
  noGrad(() => {
    for (const { node, out } of graphOf(root)) {
      const g = grads.get(out);
      if (!g) continue;
      // The rule's result is final for `out` unless it is also a leaf, whose gradient is kept.
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
  });
  return grads;
}

/** Runs `body` with tracking, within the backward pass too. */
function tracked<T>(body: () => T): T {
  const before = recording;
  recording = true;
  try {
    return body();
  } finally {
    recording = before;
  }
}

/** The tensors with `requiresGrad` that `root` was computed from. */
function leavesOf(root: Tensor): Set<Tensor> {
  const inputs = graphOf(root).flatMap(({ node }) => node.inputs);
  return new Set(inputs.filter((t) => t.requiresGrad));
}

/**
 * Runs `body` and keeps only its inputs for the backward pass, which runs it a second time: less memory for more work. Gradients
 * are bit-identical to those without. Chen et al., "Training deep nets with sublinear memory cost" (arXiv 1604.06174).
 *
 * @param body computes one tensor, the same each time: from the inputs, and from other tensors that do not change meanwhile
 * @param inputs what it computes from, at least one tensor; gradients flow into them, and into other tensors with `requiresGrad`
 * that the body uses
 * @returns what `body` returned
 *
 * @example
 * ```ts
 * import { backward, checkpoint, mul, openDevice, tensor } from "@nibble/nibble";
 *
 * using device = await openDevice();
 * const x = tensor(device, new Float32Array([3]), []);
 * x.requiresGrad = true;
 * backward(checkpoint((x) => mul(mul(x, x), x), [x]));
 * console.log(await x.grad!.item()); // 27
 * ```
 */
export function checkpoint(
  body: (...inputs: Tensor[]) => Tensor,
  inputs: readonly [Tensor, ...Tensor[]],
): Tensor {
  if (!recording) return body(...inputs);
  const { device } = inputs[0];
  // The body sees its inputs without their history, so that its own part of the graph ends at them.
  const again = () =>
    inputs.map((input) => {
      const own = viewOf(input, input.shape);
      own.requiresGrad = needsGrad(input);
      return own;
    });
  let leaves: Tensor[] = [];
  const out = device.scope(() => {
    const own = again();
    const result = body(...own);
    leaves = [...leavesOf(result)].filter((leaf) => !own.includes(leaf));
    return viewOf(result, result.shape);
  });
  return track("checkpoint", out, [...inputs, ...leaves], (g) =>
    device.scope(() => {
      const own = again();
      const grads = propagate(tracked(() => body(...own)), g);
      return [...own, ...leaves].map((t) => grads.get(t) ?? null);
    }));
}
