import { tensor } from "../../../core/tensor.ts";
import { batchNorm } from "../../../kernels/norm/batch_norm.ts";
import { batchNormRef, batchStatisticsRef } from "../../../kernels/norm/batch_norm_ref.ts";
import { assertAllClose, assertEquals, assertThrows } from "../../assert.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const ones = (channels: number) => tensor(device, new Float32Array(channels).fill(1));
const zeros = (channels: number) => tensor(device, new Float32Array(channels));
const fresh = (channels: number) => ({ mean: zeros(channels), variance: ones(channels) });

function inputs(shape: readonly number[], mean = 0) {
  const channels = shape.at(-1)!;
  const size = shape.reduce((a, b) => a * b);
  return [
    { data: randomNumbers(size, 1, 2).map((v) => v + mean), shape },
    { data: randomNumbers(channels, 2), shape: [channels] },
    { data: randomNumbers(channels, 3), shape: [channels] },
  ];
}

Deno.test("batchNorm() by the batch's statistics matches the reference, at all numbers of rows", async () => {
  for (const shape of [[3, 3], [7, 5], [4, 3, 3, 16], [130, 70]]) {
    const training = { training: true };
    await checkOp(
      inputs(shape),
      (x, gain, bias) => batchNorm(x, gain, bias, fresh(shape.at(-1)!), training),
      (x, gain, bias) => batchNormRef(x, gain, bias),
      { every: shape[0] === 130 ? 31 : 1 },
    );
  }
});

Deno.test("batchNorm() by given statistics matches the reference", async () => {
  const shape = [6, 2, 9];
  const mean = randomNumbers(9, 4);
  const variance = randomNumbers(9, 5).map((v) => v * v);
  const running = { mean: tensor(device, mean), variance: tensor(device, variance) };
  await checkOp(
    inputs(shape),
    (x, gain, bias) => batchNorm(x, gain, bias, running, { epsilon: 1e-3 }),
    (x, gain, bias) => batchNormRef(x, gain, bias, { mean, variance }, 1e-3),
  );
  assertEquals(await running.mean.read(), mean);
});

Deno.test("batchNorm() keeps its digits where the mean is far from zero", async () => {
  const [x, gain, bias] = inputs([500, 4], 1000);
  const of = ({ data, shape }: typeof x) => tensor(device, data, shape);
  const y = batchNorm(of(x), of(gain), of(bias), fresh(4), { training: true });
  // A number near 1000 is itself known to 3e-5 only.
  assertAllClose(await y.read(), batchNormRef(x.data, gain.data, bias.data), {
    relative: 0,
    absolute: 1e-4,
  });
});

Deno.test("batchNorm() moves the running statistics by the momentum, the variance unbiased", async () => {
  const [{ data, shape }] = inputs([40, 6], 3);
  const running = fresh(6);
  const run = (momentum?: number) =>
    batchNorm(tensor(device, data, shape), ones(6), zeros(6), running, {
      training: true,
      momentum,
    });
  const { mean, variance } = batchStatisticsRef(data, 6);
  run();
  run(0.5);
  const moved = (start: number, to: number) => 0.5 * (start + 0.1 * (to - start)) + 0.5 * to;
  const unbiased = Array.from(variance, (v) => v * 40 / 39);
  assertAllClose(await running.mean.read(), Array.from(mean, (m) => moved(0, m)));
  assertAllClose(await running.variance.read(), unbiased.map((v) => moved(1, v)));
});

Deno.test("batchNorm() refuses one row in training, and shapes that do not fit", () => {
  const one = randomTensor([1, 4], 1);
  const norm = (channels: number, training: boolean) =>
    batchNorm(one, ones(channels), zeros(channels), fresh(channels), { training });
  assertThrows(() => norm(4, true), RangeError, "wanted at least 2");
  assertEquals(norm(4, false).shape, [1, 4]);
  assertThrows(() => norm(3, false), RangeError, "wanted [4]");
});
