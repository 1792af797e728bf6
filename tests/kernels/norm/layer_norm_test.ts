import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { layerNorm } from "../../../kernels/norm/layer_norm.ts";
import { layerNormRef } from "../../../kernels/norm/layer_norm_ref.ts";
import { add } from "../../../kernels/pointwise/arithmetic.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { onBoth } from "../../as_gpu.ts";
import { device, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("layerNorm() matches the reference, with gradients for x, gain and bias", async () => {
  await onBoth(async () => {
    // The most rows are more than a GPU's workgroups take at once: each walks several.
    for (const [rows, columns] of [[1, 4], [10, 24], [130, 33], [2, 1100], [2500, 8]]) {
      const x = { data: randomNumbers(rows * columns, 1, 2), shape: [rows, columns] };
      const gain = { data: randomNumbers(columns, 2), shape: [columns] };
      const bias = { data: randomNumbers(columns, 3), shape: [columns] };
      await checkOp(
        [x, gain, bias],
        (t, g, b) => layerNorm(t, g, b, 1e-6),
        (t, g, b) => layerNormRef(t, g, b, rows, columns, 1e-6),
        { every: Math.ceil(rows * columns / 500) },
      );
    }
  });
});

Deno.test("layerNorm() keeps its digits where the mean is far from zero", async () => {
  const data = randomNumbers(4 * 64, 1).map((value) => value + 1000);
  const [gain, bias] = [new Float32Array(64).fill(1), new Float32Array(64)];
  const out = layerNorm(tensor(device, data, [4, 64]), tensor(device, gain), tensor(device, bias));
  // Near 1000, x itself is exact to 3e-5.
  assertRelativeError(await out.read(), layerNormRef(data, gain, bias, 4, 64), 1e-4);
});

Deno.test("layerNorm() adds what x has from a residual, and skips frozen parameters", async () => {
  const gradient = async (trained: boolean) => {
    const x = randomTensor([3, 8], 1);
    const [gain, bias] = [randomTensor([8], 2), randomTensor([8], 3)];
    x.requiresGrad = true;
    gain.requiresGrad = bias.requiresGrad = trained;
    backward(sum(add(layerNorm(x, gain, bias), x)));
    assertEquals(gain.grad !== null && bias.grad !== null, trained);
    return { both: await x.grad!.read() as Float32Array, x, gain, bias };
  };
  const { both, gain, bias } = await gradient(true);
  assertEquals((await gradient(false)).both, both);
  const alone = randomTensor([3, 8], 1);
  alone.requiresGrad = true;
  backward(sum(layerNorm(alone, gain, bias)));
  const own = await alone.grad!.read() as Float32Array;
  assertRelativeError(both, own.map((value) => value + 1), 1e-6);
});

Deno.test("layerNorm() refuses a gain or bias of another length", () => {
  const [x, four, eight] = [randomTensor([2, 8], 1), randomTensor([4], 2), randomTensor([8], 3)];
  assertThrows(
    () => layerNorm(x, four, eight),
    RangeError,
    "Cannot normalize: gain has shape [4], wanted [8]",
  );
  assertThrows(
    () => layerNorm(x, eight, four),
    RangeError,
    "Cannot normalize: bias has shape [4], wanted [8]",
  );
});
