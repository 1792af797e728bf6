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
import { fromHalf, halfOf, keepHalf, keepingHalves } from "./halves.ts";
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
 * @param saved the inputs and results that the rule asks for by `kept`: they may be kept in 16 bits until then
 * @returns `out`
 */
export function track(
  label: string,
  out: Tensor,
  inputs: readonly Tensor[],
  rule: BackwardRule,
  saved: readonly Tensor[] = [],
): Tensor {
  if (recording && inputs.some(needsGrad)) {
    out.node = { id: nextId++, label, inputs, rule };
    for (const t of saved) if (!isRecomputed(t)) keepHalf(t);
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
  eachGradient(loss, (t, g) => {
    t.grad = t.device.keep(t.grad ? sum(t.grad, g) : g);
    t.device.recorder?.leaves.add(t);
  }, grad);
}

/**
 * As `backward`, but hands each gradient over as soon as it is whole, in the order in which they are found, and leaves `grad` alone:
 * who takes a gradient away at once needs no memory for all of them.
 *
 * @param loss a tensor of one element, or of any shape with `grad` given
 * @param take is called once for each tensor with `requiresGrad`
 * @param grad the gradient to begin with; 1 by default
 * @throws {RangeError} if `loss` has more than one element and no `grad` is given
 * @throws {TypeError} if `loss` does not depend on any tensor with `requiresGrad`
 */
export function eachGradient(
  loss: Tensor,
  take: (leaf: Tensor, gradient: Tensor) => void,
  grad?: Tensor,
): void {
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
  propagate(loss, grad ?? viewOf(one(loss.device), loss.shape), take);
}

/** What `kept` has computed again, by tensor, and what it has widened, by halves, in the backward pass that runs now. */
let recomputed: Map<Tensor, Tensor> | null = null;

/**
 * Computes a tensor whose inputs are kept for the backward pass anyway, and which is cheap. In a recorded step with `recompute`, rules
 * that ask for it by `kept` get it computed once more, so that its memory is free in between.
 *
 * @param make computes it; it asks for its inputs by `kept` too
 */
export function recomputable(make: () => Tensor): Tensor {
  const t = make();
  t.again = make;
  return t;
}

/** Whether `kept` computes a tensor once more. */
function isRecomputed(t: Tensor): t is Tensor & { again: () => Tensor } {
  return t.again !== null && t.device.recorder?.recompute === true;
}

/**
 * For backward rules: the input or result `t` as it was, from memory or computed again; or rounded, where activations are kept in 16
 * bits. In a forward pass `t` itself.
 */
export function kept(t: Tensor): Tensor {
  if (!recomputed) return t;
  if (isRecomputed(t)) {
    let found = recomputed.get(t);
    if (!found) recomputed.set(t, found = noGrad(t.again));
    return found;
  }
  const half = halfOf(t);
  return half ? fromHalf(t, half, recomputed) : t;
}

/** Takes the gradient of a tensor with `requiresGrad`. */
type TakeGradient = (leaf: Tensor, g: Tensor) => void;

/** The gradients that a backward pass has found so far, and for each leaf how many of its uses are still to come. */
class Gradients {
  readonly #found = new Map<Tensor, Tensor>();
  readonly #uses = new Map<Tensor, number>();
  readonly #hand: TakeGradient;

  constructor(graph: readonly { node: Node }[], hand: TakeGradient) {
    this.#hand = hand;
    for (const { node } of graph) {
      for (const t of new Set(node.inputs)) this.#uses.set(t, (this.#uses.get(t) ?? 0) + 1);
    }
  }

  give(t: Tensor, g: Tensor): void {
    const before = this.#found.get(t);
    this.#found.set(t, before ? sum(before, g) : g);
  }

  take(t: Tensor): Tensor | undefined {
    const found = this.#found.get(t);
    this.#found.delete(t);
    return found;
  }

  /** One use less of each of the node's inputs: a leaf without any more has its whole gradient. */
  finish(node: Node): void {
    for (const t of new Set(node.inputs)) {
      const left = this.#uses.get(t)! - 1;
      this.#uses.set(t, left);
      if (left > 0 || !t.requiresGrad || t.node) continue;
      const whole = this.take(t);
      if (whole) this.#hand(t, whole);
    }
  }

  /** The gradient that an op's rule begins with. A tensor that was computed, and has `requiresGrad` too, also keeps it. */
  begin(out: Tensor): Tensor | undefined {
    const g = this.take(out);
    if (g && out.requiresGrad) this.#hand(out, g);
    return g;
  }
}

/** Gives the gradient of each tensor with `requiresGrad` that `root` depends on to `hand`, as soon as it is whole. */
function propagate(root: Tensor, grad: Tensor, hand: TakeGradient): void {
  if (!root.node) return hand(root, grad);
  const graph = graphOf(root);
  const gradients = new Gradients(graph, hand);
  gradients.give(root, grad);
  const before = recomputed;
  recomputed = new Map();
  try {
    noGrad(() => graph.forEach(({ node, out }) => differentiate(node, out, gradients)));
  } finally {
    recomputed = before;
  }
}

/** Turns the gradient of a node's output into those of its inputs. */
function differentiate(node: Node, out: Tensor, gradients: Gradients): void {
  const { inputs, label, rule } = node;
  const g = gradients.begin(out);
  const given = g && rule(g, inputs.map(needsGrad), { take: (i) => gradients.take(inputs[i]) });
  if (given && given.length !== inputs.length) {
    throw new RangeError(
      `Cannot differentiate "${label}": its rule gave ${given.length} gradients for ${inputs.length} inputs`,
    );
  }
  inputs.forEach((input, index) => {
    const part = given?.[index];
    if (!part || !needsGrad(input)) return;
    checkSameShape(`take the gradient of "${label}": input and gradient`, input, part);
    gradients.give(input, part);
  });
  gradients.finish(node);
}

/** Runs a forward pass within the backward pass: with tracking, and with `kept` as it is in any forward pass. */
function tracked<T>(body: () => T): T {
  const before = { recording, recomputed };
  recording = true;
  recomputed = null;
  try {
    return body();
  } finally {
    ({ recording, recomputed } = before);
  }
}

/** The tensors with `requiresGrad` that `root` was computed from. */
function leavesOf(root: Tensor): Set<Tensor> {
  const inputs = graphOf(root).flatMap(({ node }) => node.inputs);
  return new Set(inputs.filter((t) => t.requiresGrad));
}

/**
 * Runs `body` and keeps only its inputs for the backward pass, which runs it a second time: less memory for more work. Gradients
 * are bit-identical to those without, unless activations are kept in 16 bits: then the second run begins with rounded inputs. Chen et al., "Training deep nets with sublinear memory cost" (arXiv 1604.06174).
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
      const own = viewOf(kept(input), input.shape);
      own.requiresGrad = needsGrad(input);
      return own;
    });
  let leaves: Tensor[] = [];
  const out = device.scope(() => {
    const own = again();
    // What this pass keeps is for nobody.
    const result = keepingHalves(false, () => body(...own));
    leaves = [...leavesOf(result)].filter((leaf) => !own.includes(leaf));
    return viewOf(result, result.shape);
  });
  return track("checkpoint", out, [...inputs, ...leaves], (g) =>
    device.scope(() => {
      const own = again();
      const grads = new Map<Tensor, Tensor>();
      propagate(tracked(() => body(...own)), g, (t, own) => grads.set(t, own));
      return [...own, ...leaves].map((t) => grads.get(t) ?? null);
    }), inputs);
}
