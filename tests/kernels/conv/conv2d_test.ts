import { conv2d } from "../../../kernels/conv/conv2d.ts";
import { conv2dRef, type ConvolutionCase } from "../../../kernels/conv/conv2d_ref.ts";
import { assertThrows } from "../../assert.ts";
import { randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

const CASES: readonly ConvolutionCase[] = [
  { x: [2, 5, 6, 3], weight: [4, 3, 3, 3], stride: 1, padding: 1 },
  { x: [1, 7, 8, 2], weight: [3, 2, 3, 2], stride: 2, padding: 0 },
  { x: [1, 6, 5, 1], weight: [8, 3, 3, 1], stride: 3, padding: 2 },
  { x: [3, 4, 4, 4], weight: [4, 1, 1, 4], stride: 1, padding: 0 },
  { x: [1, 2, 2, 1], weight: [1, 4, 4, 1], stride: 1, padding: 1 },
];

Deno.test("conv2d() matches the reference with strides, padding and kernels of all kinds", async () => {
  for (const one of CASES) {
    const sized = (shape: readonly number[], seed: number) => ({
      data: randomNumbers(shape.reduce((a, b) => a * b), seed),
      shape,
    });
    const { stride, padding } = one;
    await checkOp(
      [sized(one.x, 1), sized(one.weight, 2), sized([one.weight[0]], 3)],
      (x, weight, bias) => conv2d(x, weight, { bias, stride, padding }),
      (x, weight, bias) => conv2dRef(x, weight, bias, one),
    );
  }
});

Deno.test("conv2d() refuses kernels that do not fit, and strides that are none", () => {
  const x = randomTensor([1, 4, 4, 2], 1);
  assertThrows(() => conv2d(x, randomTensor([3, 5, 3, 2], 2)), RangeError, "padding 0");
  assertThrows(() => conv2d(x, randomTensor([3, 3, 3, 1], 2)), RangeError, "weight has shape");
  const weight = randomTensor([3, 3, 3, 2], 2);
  assertThrows(() => conv2d(x, weight, { stride: 0 }), RangeError, "stride 0");
  assertThrows(() => conv2d(x, weight, { padding: 0.5 }), RangeError, "padding 0.5");
});
