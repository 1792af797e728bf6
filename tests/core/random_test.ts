import { kernel } from "../../core/kernel.ts";
import { gridOf } from "../../core/grid.ts";
import { Random, threefry } from "../../core/random.ts";
import randomCode from "../../core/random.wgsl" with { type: "text" };
import { empty } from "../../core/tensor.ts";
import { assert, assertEquals, assertThrows } from "../assert.ts";
import { device } from "../device.ts";

Deno.test("threefry() gives the published answers", () => {
  // Random123, kat_vectors: threefry2x32 with 20 rounds.
  const hex = (pair: [number, number]) => pair.map((word) => word.toString(16).padStart(8, "0"));
  assertEquals(hex(threefry([0, 0], [0, 0])), ["6b200159", "99ba4efe"]);
  const ones: [number, number] = [0xffffffff, 0xffffffff];
  assertEquals(hex(threefry(ones, ones)), ["1cb996fc", "bb002be7"]);
  assertEquals(
    hex(threefry([0x13198a2e, 0x03707344], [0x243f6a88, 0x85a308d3])),
    ["c4923a9c", "483df7a0"],
  );
});

Deno.test("threefry() gives the same bits on the GPU", async () => {
  const probe = kernel(
    "threefry_probe",
    `${randomCode}
@group(0) @binding(0) var<storage, read_write> out: array<vec2<u32>>;
@compute @workgroup_size(64) fn main(@builtin(global_invocation_id) g: vec3<u32>) {
  out[g.x] = threefry(vec2<u32>(123u, 0xfffffff0u + g.x), vec2<u32>(g.x * 7919u, g.x));
}`,
  );
  const out = empty(device, [64, 2], "u32");
  device.dispatch(probe, [out], gridOf(1));
  const expected = Array.from(
    { length: 64 },
    (_, i) => threefry([123, (0xfffffff0 + i) >>> 0], [Math.imul(i, 7919) >>> 0, i]),
  ).flat();
  assertEquals(Array.from(await out.read()), expected);
});

Deno.test("Random gives the same stream from the same seed, and goes on from a position", () => {
  const draw = (random: Random) => Array.from({ length: 5 }, () => random.word());
  assertEquals(draw(new Random(1)), draw(new Random(1)));
  assert(draw(new Random(1))[0] !== draw(new Random(2))[0]);
  assert(draw(new Random(1, 0))[0] !== draw(new Random(1, 1))[0]);
  const [a, b] = [new Random(3), new Random(3)];
  draw(a);
  b.position = 5;
  assertEquals(draw(a), draw(b));
  assertThrows(() => new Random(0.5), RangeError, "Cannot seed with 0.5");
});

Deno.test("Random has the moments and the permutations it should", () => {
  const random = new Random(4);
  const values = Array.from({ length: 20_000 }, () => random.normal());
  const mean = values.reduce((x, y) => x + y) / values.length;
  const variance = values.reduce((sum, x) => sum + (x - mean) ** 2, 0) / values.length;
  // five standard errors: 5 / √20000 = 0.035 and 5 · √(2 / 20000) = 0.05
  assert(Math.abs(mean) < 0.035 && Math.abs(variance - 1) < 0.05, `${mean} ${variance}`);
  const order = random.permutation(100);
  assertEquals(Array.from(order).sort((a, b) => a - b), Array.from({ length: 100 }, (_, i) => i));
});
