import { relu } from "../../../kernels/pointwise/relu.ts";
import { reluRef } from "../../../kernels/pointwise/relu_ref.ts";
import { randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("relu() matches the reference", async () => {
  // Away from 0, where central differences see half a slope.
  const away = (size: number) => randomNumbers(size, size, 2).map((v) => v + Math.sign(v) * 0.01);
  await checkOp([{ data: away(130), shape: [2, 65] }], relu, reluRef, { forward: 0 });
  await checkOp([{ data: away(3), shape: [3] }], relu, reluRef, { forward: 0 });
});
