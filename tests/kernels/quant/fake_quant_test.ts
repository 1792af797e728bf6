import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { mul } from "../../../kernels/pointwise/arithmetic.ts";
import { fakeQuantize } from "../../../kernels/quant/fake_quant.ts";
import { fakeQuantGradientsRef, fakeQuantRef } from "../../../kernels/quant/fake_quant_ref.ts";
import { sum } from "../../../kernels/reduce/sum.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";

const GOLDEN = new URL("../../golden/torch_quant.safetensors", import.meta.url).pathname;

Deno.test("fakeQuantize() and its learnt step are PyTorch's", async () => {
  using file = await SafetensorsFile.open(GOLDEN);
  const read = (name: string) => file.readFloats(name);
  const shape = [64, 96];
  const x = tensor(device, await read("lsq.x"), shape);
  const scale = tensor(device, new Float32Array([0.05]));
  const zero = tensor(device, new Float32Array([3]));
  for (const t of [x, scale, zero]) t.requiresGrad = true;
  const y = fakeQuantize(x, scale, zero, { least: -128, most: 127 });
  backward(sum(mul(y, tensor(device, await read("lsq.w"), shape))));
  const compare = async (t: Float32Array, name: string, bound = 1e-6) =>
    assertRelativeError(t, await read(name), bound, name);
  await compare(await y.read() as Float32Array, "lsq.y");
  await compare(await x.grad!.read() as Float32Array, "lsq.grad_x");
  await compare(await scale.grad!.read() as Float32Array, "lsq.grad_scale", 2e-6);
  await compare(await zero.grad!.read() as Float32Array, "lsq.grad_zero");
});

Deno.test("fakeQuantize() matches the reference in groups, rows and the whole, outside the range too", async () => {
  const [rows, columns, least, most] = [6, 24, -8, 7];
  const data = randomNumbers(rows * columns, 5, 1.5);
  const weights = randomNumbers(rows * columns, 6);
  for (const [own, groups] of [[1, 1], [rows, 1], [rows, 3]]) {
    const scales = randomNumbers(own * groups, 7).map((s) => 0.1 + 0.2 * Math.abs(s));
    const zeros = Float32Array.from(scales, (_, i) => i % 3 - 1);
    const shape = own === 1 ? [1] : [own, groups];
    const inputs = [tensor(device, data, [rows, columns]), tensor(device, scales, shape)];
    inputs.push(tensor(device, zeros, shape));
    for (const t of inputs) t.requiresGrad = true;
    const options = { least, most, gradientFactor: 0.5 };
    const y = fakeQuantize(inputs[0], inputs[1], inputs[2], options);
    backward(sum(mul(y, tensor(device, weights, [rows, columns]))));
    const size = data.length / scales.length;
    const expected = { y: [] as number[], x: [] as number[], scales: [], zeros: [] } as {
      [name: string]: number[];
    };
    for (const [i, scale] of scales.entries()) {
      const part = (t: Float32Array) => t.subarray(i * size, (i + 1) * size);
      const one = { x: part(data), scale, zero: zeros[i], least, most };
      expected.y.push(...fakeQuantRef(one));
      const gradients = fakeQuantGradientsRef(one, part(weights), 0.5);
      expected.x.push(...gradients.x);
      expected.scales.push(gradients.scale);
      expected.zeros.push(gradients.zero);
    }
    assertRelativeError(await y.read(), expected.y, 1e-6, "y");
    const grads = await Promise.all(inputs.map((t) => t.grad!.read()));
    assertRelativeError(grads[0], expected.x, 1e-6, "x");
    assertRelativeError(grads[1], expected.scales, 2e-6, "scales");
    assertRelativeError(grads[2], expected.zeros, 2e-6, "zeros");
  }
});

Deno.test("fakeQuantize() refuses scales that do not fit", () => {
  const x = tensor(device, new Float32Array(12), [3, 4]);
  const scales = (shape: number[]) =>
    tensor(device, new Float32Array(shape.reduce((a, b) => a * b)).fill(1), shape);
  const levels = { least: -8, most: 7 };
  const wrong = scales([3, 3]);
  assertThrows(() => fakeQuantize(x, wrong, wrong, levels), RangeError, "[3, groups]");
  assertThrows(() => fakeQuantize(x, scales([3, 2]), scales([3, 1]), levels), RangeError, "zeros");
});
