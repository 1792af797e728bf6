import { tensor, zeros } from "../../../core/tensor.ts";
import { adamwStep } from "../../../kernels/optim/adamw.ts";
import { adamwRef } from "../../../kernels/optim/adamw_ref.ts";
import { gather } from "../../../kernels/optim/gather.ts";
import { gradNorm } from "../../../kernels/optim/grad_norm.ts";
import { gradNormRef } from "../../../kernels/optim/grad_norm_ref.ts";
import { assertAllClose, assertEquals, assertRelativeError } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";

Deno.test("gradNorm() matches the reference", async () => {
  await onBoth(async () => {
    for (const size of [1, 100, 5000, 300_000]) {
      const grad = randomNumbers(size, 1);
      const norm = await gradNorm(tensor(device, grad)).item();
      assertRelativeError([norm], [gradNormRef(grad)], 1e-6, `size ${size}`);
    }
  });
});

Deno.test("gather() puts parts in their places, and accumulates", async () => {
  const sizes = Array.from({ length: 50 }, (_, i) => 1 + (i * 37) % 200);
  const parts = sizes.map((size, i) => ({
    grad: randomTensor([size], i),
    at: 64 * sizes.slice(0, i).reduce((sum, own) => sum + Math.ceil(own / 64), 0),
  }));
  const total = parts.at(-1)!.at + 256;
  const flat = zeros(device, [total]);
  const expected = new Float32Array(total);
  for (const accumulate of [false, true]) {
    gather(flat, parts, accumulate);
    for (const { grad, at } of parts) {
      const values = await grad.read();
      for (let i = 0; i < values.length; i++) {
        expected[at + i] = (accumulate ? expected[at + i] : 0) + values[i];
      }
    }
    assertEquals(await flat.read(), expected);
  }
});

Deno.test("adamwStep() follows the reference over steps, with clipping, decay and rates by block", async () => {
  const size = 200;
  const start = randomNumbers(size, 1);
  for (const clip of [0, 0.5]) {
    const weights = tensor(device, start);
    const [first, second] = [zeros(device, [size]), zeros(device, [size])];
    const options = { beta1: 0.9, beta2: 0.95, epsilon: 1e-8, clip };
    // Blocks 0 and 1 decay; blocks 2 and 3 do not, and learn twice as fast.
    const blocks = tensor(device, new Float32Array([1, 0.1, 1, 0.1, 2, 0, 2, 0]), [4, 2]);
    const split = 128;
    const state = (from: number, to: number) => ({
      weights: Float64Array.from(start.subarray(from, to)),
      first: new Float64Array(to - from),
      second: new Float64Array(to - from),
    });
    const [head, tail] = [state(0, split), state(split, size)];
    for (let step = 1; step <= 8; step++) {
      const learningRate = 0.01 * step;
      const grad = randomNumbers(size, 10 + step);
      const hyper = tensor(
        device,
        new Float32Array([
          learningRate,
          options.beta1,
          options.beta2,
          options.epsilon,
          1 - options.beta1 ** step,
          Math.sqrt(1 - options.beta2 ** step),
          clip,
        ]),
      );
      const g = tensor(device, grad);
      adamwStep({ weights, first, second, grad: g, norm: gradNorm(g), hyper, blocks });
      // The reference clips by the norm of what it is given: scale beforehand by the norm of all.
      const shrink = clip ? Math.min(1, clip / (gradNormRef(grad) + 1e-6)) : 1;
      const clipped = Float64Array.from(grad, (value) => value * shrink);
      const unclipped = { ...options, step, clip: 0 };
      adamwRef(head, clipped.subarray(0, split), { ...unclipped, learningRate, decay: 0.1 });
      adamwRef(tail, clipped.subarray(split), {
        ...unclipped,
        learningRate: 2 * learningRate,
        decay: 0,
      });
    }
    assertAllClose(await weights.read(), [...head.weights, ...tail.weights], {
      relative: 1e-5,
      absolute: 1e-6,
    });
  }
});

Deno.test("adamwRef() clips by the norm", () => {
  const options = {
    step: 1,
    learningRate: 0.1,
    beta1: 0.9,
    beta2: 0.999,
    epsilon: 1e-8,
    decay: 0,
  };
  const run = (grad: number[], clip: number) => {
    const state = {
      weights: new Float64Array(2),
      first: new Float64Array(2),
      second: new Float64Array(2),
    };
    adamwRef(state, grad, { ...options, clip });
    return state;
  };
  assertAllClose(run([3, 4], 1).first, run([0.6, 0.8], 0).first);
});
