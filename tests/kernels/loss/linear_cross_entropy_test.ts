import { backward, noGrad } from "../../../core/autograd.ts";
import { capture } from "../../../core/capture.ts";
import { type Tensor, tensor } from "../../../core/tensor.ts";
import { add } from "../../../kernels/pointwise/arithmetic.ts";
import { matmul } from "../../../kernels/linear/matmul.ts";
import { crossEntropy } from "../../../kernels/loss/cross_entropy.ts";
import {
  linearCrossEntropy,
  type LinearCrossEntropyOptions,
} from "../../../kernels/loss/linear_cross_entropy.ts";
import { linearCrossEntropyRef } from "../../../kernels/loss/linear_cross_entropy_ref.ts";
import { onBoth } from "../../as_gpu.ts";
import { assert, assertEquals, assertRelativeError, assertThrows } from "../../assert.ts";
import { device, randomIntegers, randomNumbers, randomTensor } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

/** So few that rows are taken 64 at a time. */
const PARTS = { logitBytes: 1 };

Deno.test("linearCrossEntropy() matches the reference, in one part and in several", async () => {
  await onBoth(async () => {
    const cases = [[5, 8, 12, {}], [70, 6, 33, PARTS], [130, 12, 52, PARTS], [
      2,
      4,
      2304,
      {},
    ]] as const;
    for (const [rows, width, classes, options] of cases) {
      const targets = randomIntegers(rows, classes, 3);
      if (rows > 4) targets.fill(-100, 1, 4);
      await checkOp(
        [
          { data: randomNumbers(rows * width, 1), shape: [rows, width] },
          { data: randomNumbers(classes * width, 2), shape: [classes, width] },
        ],
        (x, w) => linearCrossEntropy(x, w, tensor(device, targets), options),
        (x, w) => [linearCrossEntropyRef(x, w, targets, width)],
        { every: 29 },
      );
    }
  });
});

/** The loss and the gradients of hidden and weight, as the loss's user sees them. */
async function learnt(
  loss: (x: Tensor, w: Tensor, targets: Tensor, count: Tensor) => Tensor,
): Promise<[number, Float32Array, Float32Array]> {
  const x = randomTensor([3, 50, 32], 5);
  const w = randomTensor([320, 32], 6, 0.3);
  x.requiresGrad = w.requiresGrad = true;
  const labels = randomIntegers(150, 320, 7).fill(-100, 90, 120);
  const count = tensor(device, new Float32Array([300]));
  const found = loss(x, w, tensor(device, labels), count);
  backward(found);
  const [dX, dW] = await Promise.all([x.grad!.read(), w.grad!.read()]);
  return [await found.item(), dX as Float32Array, dW as Float32Array];
}

Deno.test("linearCrossEntropy() is the plain product and its cross-entropy, but for rounding", async () => {
  await onBoth(async () => {
    const plain = await learnt((x, w, targets, count) =>
      crossEntropy(matmul(x, w, { transposeB: true }), targets, { count })
    );
    for (const options of [{}, PARTS]) {
      const found = await learnt((x, w, targets, count) =>
        linearCrossEntropy(x, w, targets, { count, ...options })
      );
      assertRelativeError([found[0]], [plain[0]], 1e-6, "loss");
      assertRelativeError(found[1], plain[1], 3e-6, "gradient of hidden");
      assertRelativeError(found[2], plain[2], 3e-6, "gradient of weight");
    }
  });
});

Deno.test("linearCrossEntropy() adds its gradients to those of later uses", async () => {
  const [x, w] = [randomTensor([4, 8], 1), randomTensor([16, 8], 2)];
  const targets = tensor(device, randomIntegers(4, 16, 3));
  const gradients = async (times: number) => {
    x.grad = w.grad = null;
    x.requiresGrad = w.requiresGrad = true;
    let total = linearCrossEntropy(x, w, targets);
    for (let i = 1; i < times; i++) total = add(total, linearCrossEntropy(x, w, targets));
    backward(total);
    return [await x.grad!.read(), await w.grad!.read()];
  };
  const [once, thrice] = [await gradients(1), await gradients(3)];
  for (const i of [0, 1]) {
    assertRelativeError(thrice[i], Float64Array.from(once[i], (v) => 3 * v), 1e-6);
  }
});

Deno.test("linearCrossEntropy() holds one part of the logits, eagerly and recorded", async () => {
  const [rows, width, classes] = [1024, 4, 2048];
  const targets = tensor(device, randomIntegers(rows, classes, 1));
  const peakOf = (options: LinearCrossEntropyOptions, replay: boolean) => {
    const [x, w] = [randomTensor([rows, width], 2), randomTensor([classes, width], 3)];
    x.requiresGrad = w.requiresGrad = true;
    device.pool.resetPeak();
    const before = device.memory.live;
    using step = capture(device, () => {
      const loss = linearCrossEntropy(x, w, targets, options);
      backward(loss);
      return loss;
    }, { replay, overlap: false });
    step();
    return device.memory.peak - before;
  };
  for (const replay of [false, true]) {
    const whole = 4 * rows * classes;
    assert(peakOf({ logitBytes: whole }, replay) >= whole);
    assert(peakOf({ logitBytes: whole / 8 }, replay) < whole / 4);
  }
  await device.finish();
});

Deno.test("linearCrossEntropy() without gradients gives the loss alone; nothing but ignored targets gives 0", async () => {
  const [x, w] = [randomTensor([4, 8], 1), randomTensor([16, 8], 2)];
  x.requiresGrad = true;
  const targets = tensor(device, randomIntegers(4, 16, 3));
  const loss = noGrad(() => linearCrossEntropy(x, w, targets));
  assertEquals(loss.node, null);
  assertRelativeError([await loss.item()], [await linearCrossEntropy(x, w, targets).item()], 1e-7);
  const none = tensor(device, new Int32Array(4).fill(-100));
  const nothing = linearCrossEntropy(x, w, none);
  backward(nothing);
  assertEquals(await nothing.item(), 0);
  assertEquals(Array.from(await x.grad!.read()), new Array(32).fill(0));
});

Deno.test("linearCrossEntropy() checks shapes", () => {
  const [x, w] = [randomTensor([4, 8], 1), randomTensor([16, 9], 2)];
  const targets = tensor(device, new Int32Array(3));
  assertThrows(() => linearCrossEntropy(x, w, targets), RangeError, "wanted [any,8]");
  assertThrows(
    () => linearCrossEntropy(x, randomTensor([16, 8], 2), targets),
    RangeError,
    "wanted one target for each of 4 rows",
  );
});
