import { gelu } from "../../../kernels/pointwise/gelu.ts";
import { geluRef } from "../../../kernels/pointwise/gelu_ref.ts";
import { randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("gelu() matches the reference, also far from zero", async () => {
  const data = randomNumbers(130, 1, 3);
  data.set([0, 50, -50, 1000, -1000, 1e-6]);
  await checkOp([{ data, shape: [2, 65] }], gelu, geluRef);
  await checkOp([{ data: randomNumbers(77, 2), shape: [77] }], gelu, geluRef);
});
