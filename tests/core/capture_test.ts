import { backward } from "../../core/autograd.ts";
import { capture } from "../../core/capture.ts";
import { type Tensor, tensor, zeros } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { crossEntropy } from "../../kernels/loss/cross_entropy.ts";
import { rmsNorm } from "../../kernels/norm/rms_norm.ts";
import { adamwStep } from "../../kernels/optim/adamw.ts";
import { gather } from "../../kernels/optim/gather.ts";
import { gradNorm } from "../../kernels/optim/grad_norm.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { viewOf } from "../../core/tensor.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../assert.ts";
import { device, randomIntegers, randomNumbers } from "../device.ts";

/** Trains a small network for some steps over two shapes of batch, and returns its weights. */
async function run(replay: boolean): Promise<Float32Array> {
  const [inputs, hidden, classes] = [16, 32, 12];
  const size = inputs * hidden + hidden * classes;
  const weights = tensor(device, randomNumbers(size, 1, 0.2));
  const w1 = viewOf(weights, [hidden, inputs]);
  const w2 = viewOf(weights, [classes, hidden], "f32", 4 * inputs * hidden);
  for (const w of [w1, w2]) w.requiresGrad = true;
  const gain = tensor(device, new Float32Array(hidden).fill(1));
  const [first, second, grad] = [
    zeros(device, [size]),
    zeros(device, [size]),
    zeros(device, [size]),
  ];
  const blocks = tensor(
    device,
    new Float32Array(2 * Math.ceil(size / 64)).map((_, i) => 1 - i % 2),
  );
  const step = capture(device, (x, targets, hyper) => {
    const logits = matmul(
      rmsNorm(matmul(x, w1, { transposeB: true }), gain),
      w2,
      { transposeB: true },
    );
    const loss = crossEntropy(logits, targets);
    w1.grad = w2.grad = null;
    backward(loss);
    gather(grad, [{ grad: w1.grad!, at: 0 }, { grad: w2.grad!, at: inputs * hidden }], false);
    w1.grad = w2.grad = null;
    adamwStep({ weights, first, second, grad, norm: gradNorm(grad), hyper, blocks });
    return loss;
  }, { replay });
  for (let i = 1; i <= 12; i++) {
    const rows = i % 3 === 0 ? 8 : 20;
    step(
      { data: randomNumbers(rows * inputs, i), shape: [rows, inputs] },
      { data: randomIntegers(rows, classes, i), shape: [rows] },
      {
        data: new Float32Array([0.01, 0.9, 0.99, 1e-8, 1 - 0.9 ** i, Math.sqrt(1 - 0.99 ** i), 1]),
        shape: [7],
      },
    );
  }
  return await weights.read() as Float32Array;
}

Deno.test("capture() gives bit-identical weights to eager steps", async () => {
  const [eager, captured] = [await run(false), await run(true)];
  assertEquals(captured, eager);
  assert(eager.every(Number.isFinite));
});

Deno.test("capture() makes no bind groups and no buffers after the first step", () => {
  const x = tensor(device, new Float32Array(64).fill(1));
  const step = capture(device, (y) => add(add(x, y), scale(y, 2)));
  const data = new Float32Array(64);
  step({ data, shape: [64] });
  const { bindGroups } = device.counters;
  const { reserved } = device.memory;
  for (let i = 0; i < 5; i++) step({ data, shape: [64] });
  assertEquals(device.counters.bindGroups, bindGroups);
  assertEquals(device.memory.reserved, reserved);
});

Deno.test("capture() lets tensors with disjoint lives share memory", async () => {
  const before = device.memory.live;
  const step = capture(device, (x) => {
    let y = x;
    for (let i = 0; i < 20; i++) y = scale(y, 2);
    return y;
  });
  const out = step({ data: new Float32Array(1024).fill(1), shape: [1024] });
  // the input, and two buffers in turns
  assertEquals(device.memory.live - before, 3 * 4096);
  assertEquals((await out.read())[5], 2 ** 20);
});

Deno.test("capture() leaves out what nobody uses", async () => {
  const kept = tensor(device, new Float32Array([1, 1]));
  const step = capture(device, (x) => {
    const unused = scale(x, 3);
    scale(unused, 5);
    device.copy(scale(x, 7), kept);
    return scale(x, 2);
  });
  const before = device.counters.dispatches;
  const out = step({ data: new Float32Array([1, 2]), shape: [2] });
  assertEquals(device.counters.dispatches - before, 2);
  assertEquals(await out.read(), new Float32Array([2, 4]));
  assertEquals(await kept.read(), new Float32Array([7, 14]));
});

Deno.test("capture() records without running, and takes all its memory then", async () => {
  const step = capture(device, (x) => scale(add(x, x), 2));
  const input = { data: new Float32Array([1, 2]), shape: [2] };
  const { dispatches } = device.counters;
  step.record(input);
  const { live } = device.memory;
  assertEquals(device.counters.dispatches, dispatches);
  assertEquals(await step(input).read(), new Float32Array([4, 8]));
  assertEquals(device.memory.live, live);
});

Deno.test("capture() takes tensors and host arrays, and overwrites its results", async () => {
  const step = capture(device, (x, y) => ({ sum: add(x, y), twice: scale(x, 2) }));
  const y = tensor(device, new Float32Array([10, 20]));
  const first = step({ data: new Float32Array([1, 2]), shape: [2] }, y);
  assertEquals(await first.sum.read(), new Float32Array([11, 22]));
  const second = step({ data: new Float32Array([3, 4]), shape: [2] }, y);
  assertEquals(second.sum, first.sum);
  assertEquals(await first.sum.read(), new Float32Array([13, 24]));
  assertEquals(await second.twice.read(), new Float32Array([6, 8]));
});

Deno.test("capture() keeps a gradient that the step leaves", async () => {
  const w = tensor(device, new Float32Array([2]), []);
  w.requiresGrad = true;
  const step = capture(device, (x) => {
    w.grad = null;
    const y = add(w, x);
    backward(y);
    return y;
  });
  step({ data: new Float32Array([5]), shape: [] });
  assertEquals(await (w.grad as Tensor | null)!.item(), 1);
});

Deno.test("capture() uploads constants once", async () => {
  const step = capture(device, (x) => add(x, tensor(device, new Float32Array([100]))));
  for (const value of [1, 2]) {
    assertEquals(await step({ data: new Float32Array([value]), shape: [1] }).item(), 100 + value);
  }
});

Deno.test("a captured step's dispose() gives its memory back, and the next call records anew", async () => {
  const x = tensor(device, new Float32Array(64).fill(1));
  const before = device.memory.live;
  for (const replay of [true, false]) {
    const step = capture(device, (y) => {
      const constant = tensor(device, new Float32Array(64).fill(5));
      return scale(add(add(x, y), constant), 2);
    }, { replay });
    const input = { data: new Float32Array(64).fill(2), shape: [64] };
    let groups = 0;
    for (let round = 0; round < 2; round++) {
      const result = step(input);
      assertEquals((await result.read())[63], 16);
      assert(device.memory.live > before);
      if (round === 1) result.dispose();
      step.dispose();
      step.dispose();
      assertEquals(device.memory.live, before, `replay ${replay}`);
      await assertRejects(() => result.read(), TypeError, "a tensor that was freed");
      if (round === 0) groups = device.counters.bindGroups;
    }
    if (replay) assertEquals(device.counters.bindGroups, groups, "the same buffers are taken");
  }
});

Deno.test("capture() refuses reads, promises, nesting, and a ninth shape", () => {
  const input = { data: new Float32Array(1), shape: [1] };
  assertThrows(
    () => capture(device, (x) => void device.write(add(x, x), new Float32Array(1)))(input),
    TypeError,
    "Cannot write a computed tensor inside capture()",
  );
  let reading: Promise<unknown> | undefined;
  capture(device, (x) => {
    reading = x.read().catch((error) => error.message);
  })(input);
  reading!.then((message) =>
    assertEquals(message, "Cannot read a tensor inside capture(): return it from the step instead")
  );
  assertThrows(() => capture(device, (async () => {}) as never)(input), TypeError, "not async");
  const inner = capture(device, (x) => scale(x, 2));
  assertThrows(() => capture(device, () => inner(input))(), TypeError, "inside capture()");
  const step = capture(device, (x) => scale(x, 2));
  for (let n = 1; n <= 8; n++) step({ data: new Float32Array(n), shape: [n] });
  assertThrows(
    () => step({ data: new Float32Array(9), shape: [9] }),
    RangeError,
    "Cannot record inputs f32[9]: 8 shapes are recorded already",
  );
});
