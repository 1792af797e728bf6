import { tensor } from "../../../core/tensor.ts";
import { rope } from "../../../kernels/attention/rope.ts";
import { ropeRef } from "../../../kernels/attention/rope_ref.ts";
import { device, randomNumbers } from "../../device.ts";
import { checkOp } from "../../gradient.ts";

Deno.test("rope() matches the reference at any positions, and differentiates", async () => {
  const [tokens, heads, size, theta, length] = [6, 3, 8, 10_000, 50];
  const table = new Float32Array(length * size);
  for (let position = 0; position < length; position++) {
    for (let j = 0; j < size / 2; j++) {
      const angle = position * theta ** (-2 * j / size);
      table[position * size + j] = Math.cos(angle);
      table[position * size + size / 2 + j] = Math.sin(angle);
    }
  }
  const positions = new Int32Array([0, 1, 2, 0, 49, 7]);
  const x = { data: randomNumbers(tokens * heads * size, 1), shape: [2, 3, heads, size] };
  await checkOp(
    [x],
    (t) => rope(t, tensor(device, positions, [2, 3]), tensor(device, table, [length, size])),
    (t) => ropeRef(t, positions, tokens, heads, size, theta),
  );
});
