import {
  backward,
  checkpoint,
  eachGradient,
  kept,
  needsGrad,
  noGrad,
  recomputable,
  track,
} from "../../core/autograd.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { capture } from "../../core/capture.ts";
import { add, mul } from "../../kernels/pointwise/arithmetic.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { assert, assertEquals, assertThrows } from "../assert.ts";
import { device, randomNumbers } from "../device.ts";

function leaf(...values: number[]) {
  const t = tensor(device, new Float32Array(values), values.length === 1 ? [] : undefined);
  t.requiresGrad = true;
  return t;
}

Deno.test("backward() follows every path, and adds to the gradient that is there", async () => {
  const x = leaf(3);
  const y = add(mul(x, x), mul(x, scale(x, 2))); // 3x²
  backward(y);
  assertEquals(await x.grad!.item(), 18);
  backward(scale(x, 5));
  assertEquals(await x.grad!.item(), 23);
});

Deno.test("backward() with a gradient starts from any shape", async () => {
  const x = leaf(1, 2);
  backward(mul(x, x), tensor(device, new Float32Array([1, 10])));
  assertEquals(await x.grad!.read(), new Float32Array([2, 40]));
});

Deno.test("backward() does not descend where no gradient is wanted", async () => {
  const x = leaf(2);
  const constant = tensor(device, new Float32Array([4]), []);
  const frozen = track("frozen", scale(constant, 1), [constant], () => {
    throw new Error("asked");
  });
  backward(mul(x, frozen));
  assertEquals(await x.grad!.item(), 4);
  assertEquals(constant.grad, null);
});

Deno.test("backward() lets a rule take the gradient that its input has, and add to it", async () => {
  const x = leaf(3);
  const twice = track("twice", scale(x, 2), [x], (g, _needs, earlier) => {
    const before = earlier.take(0);
    assertEquals(earlier.take(0), undefined);
    return [before ? add(before, scale(g, 2)) : scale(g, 2)];
  });
  backward(add(twice, mul(x, x))); // 2x + x²
  assertEquals(await x.grad!.item(), 8);
});

Deno.test("checkpoint() runs its body again, and gives the gradients of inputs and of other leaves", async () => {
  const [x, w] = [leaf(2, 3), leaf(5, 7)];
  const runs: boolean[] = [];
  const body = (t: Tensor) => {
    runs.push(needsGrad(t));
    return mul(mul(t, w), t); // t²w
  };
  const y = scale(x, 2);
  const out = checkpoint(body, [y]);
  assertEquals(await out.read(), new Float32Array([80, 252]));
  backward(add(out, y), tensor(device, new Float32Array([1, 10])));
  assertEquals(await x.grad!.read(), new Float32Array([2 * (2 * 4 * 5 + 1), 20 * (2 * 6 * 7 + 1)]));
  assertEquals(await w.grad!.read(), new Float32Array([16, 360]));
  assertEquals(runs, [true, true]);
  noGrad(() => checkpoint(body, [y]));
  assertEquals(runs.length, 3);
});

Deno.test("eachGradient() hands a gradient over when its last use is done, once for each leaf", async () => {
  const [x, y, z] = [leaf(2), leaf(3), leaf(5)];
  const found: [string, Promise<number>][] = [];
  const names = new Map([[x, "x"], [y, "y"], [z, "z"]]);
  const rules: string[] = [];
  const seen = (name: string, t: Tensor) =>
    track(name, scale(t, 1), [t], (g) => (rules.push(name, ...found.map(([n]) => n)), [g]));
  // z · seen(y · seen(x · y)): z is whole at once, y only after its second use
  const inner = seen("inner", mul(x, y));
  eachGradient(mul(z, seen("outer", mul(y, inner))), (t, g) => {
    found.push([names.get(t)!, g.item()]);
  });
  assertEquals(rules, ["outer", "z", "inner", "z"]);
  assertEquals(await Promise.all(found.map(async ([n, g]) => [n, await g])), [
    ["z", 18],
    ["x", 45],
    ["y", 60],
  ]);
  assertEquals([x.grad, y.grad, z.grad], [null, null, null]);
  eachGradient(x, (t, g) => assertEquals([t, g.shape], [x, []]));
});

Deno.test("what is recomputable takes no memory between its uses in a recorded step", async () => {
  const elements = 1024;
  const w = tensor(device, new Float32Array(elements).fill(0.5));
  w.requiresGrad = true;
  /** 2x · w, whose rule needs 2x. */
  const product = (x: Tensor, again: boolean) => {
    const twice = () => scale(x, 2);
    const input = again ? recomputable(twice) : twice();
    return track("product", mul(input, w), [input, w], (g) => [mul(g, w), mul(g, kept(input))]);
  };
  const run = async (again: boolean) => {
    const step = capture(device, (x) => {
      let t = x;
      for (let i = 0; i < 6; i++) t = product(t, again);
      w.grad = null;
      backward(t, x);
      return w.grad!;
    }, { overlap: false, recompute: true });
    const before = device.memory.live;
    const grad = step({ data: randomNumbers(elements, 3), shape: [elements] });
    const bytes = device.memory.live - before;
    const numbers = await grad.read();
    step.dispose();
    return { bytes, numbers };
  };
  const [plain, again] = [await run(false), await run(true)];
  assertEquals(again.numbers, plain.numbers);
  assert(again.bytes < plain.bytes, `${again.bytes} and ${plain.bytes} bytes`);
});

Deno.test("checkpoint() keeps only its inputs where steps run eagerly", () => {
  const elements = 1024;
  const x = tensor(device, new Float32Array(elements).fill(1));
  x.requiresGrad = true;
  const squares = (t: Tensor) => {
    for (let i = 0; i < 8; i++) t = mul(t, t);
    return t;
  };
  device.scope(() => {
    const before = device.memory.live;
    checkpoint(squares, [x]);
    assertEquals(device.memory.live - before, 4 * elements);
    squares(x);
    assertEquals(device.memory.live - before, 9 * 4 * elements);
  });
});

Deno.test("noGrad() notes nothing, and ends when its body throws", () => {
  const x = leaf(2);
  assertEquals(noGrad(() => mul(x, x)).node, null);
  assertThrows(
    () =>
      noGrad(() => {
        throw new RangeError("stop");
      }),
    RangeError,
    "stop",
  );
  assertEquals(mul(x, x).node !== null, true);
});

Deno.test("backward() refuses what it cannot differentiate", () => {
  assertThrows(
    () => backward(mul(leaf(1, 2), leaf(1, 2))),
    RangeError,
    "Cannot differentiate a tensor of shape [2]",
  );
  const constant = tensor(device, new Float32Array([4]), []);
  assertThrows(
    () => backward(constant),
    TypeError,
    "does not depend on a tensor with requiresGrad",
  );
  const x = leaf(1);
  assertThrows(
    () => backward(track("odd", scale(x, 1), [x], () => [])),
    RangeError,
    '"odd": its rule gave 0 gradients',
  );
});
