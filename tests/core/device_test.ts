import { type Device, openDevice } from "../../core/device.ts";
import { driverCommand, installCommand } from "../../core/driver.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, tensor, zeros } from "../../core/tensor.ts";
import { Mirrors } from "../../core/texels.ts";
import { uniform } from "../../core/binding.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { assert, assertEquals, assertRejects, assertThrows } from "../assert.ts";
import { device } from "../device.ts";

Deno.test("tensor() and read() keep every type, odd sizes, and large arrays", async () => {
  for (
    const data of [
      new Float32Array([1.5, -2, 3]),
      new Float16Array([1.5, -2, 3]),
      new Int32Array([1, -2, 3]),
      new Uint32Array([1, 2, 0xffffffff]),
      new Float32Array(),
    ]
  ) {
    assertEquals(await tensor(device, data).read(), data);
  }
  const large = Float32Array.from({ length: 20_000_001 }, (_, i) => i);
  using t = tensor(device, large);
  assertEquals(await t.read(), large);
});

Deno.test("what is larger than a texture is refused with advice", () => {
  const gpu = { limits: { maxTextureDimension2D: 2 } } as GPUDevice;
  const block = { id: 1, bytes: 200_000, gpu: {} as GPUBuffer, version: 0, epoch: 0 };
  assertThrows(
    () => new Mirrors(gpu).get(block, 0, 200_000, "f32"),
    RangeError,
    "Cannot load 200000 bytes at a time: this adapter's textures have at most 131072; take less at a time: a smaller batch",
  );
});

Deno.test("tensor() refuses what it cannot hold", () => {
  assertThrows(
    () => tensor(device, new Float32Array(3), [2, 2]),
    RangeError,
    "Cannot shape 3 numbers as [2,2]: it holds 4",
  );
  assertThrows(() => tensor(device, new Float32Array(1), [0.5]), RangeError, "whole number");
  assertThrows(
    () => tensor(device, new Float64Array(1) as never),
    TypeError,
    "pass a Float32Array",
  );
});

Deno.test("scope() frees what it made, but for what it returns", async () => {
  const before = device.memory.live;
  const x = tensor(device, new Float32Array(1024).fill(1));
  const y = device.scope(() => {
    const kept = add(add(x, x), x);
    return { kept };
  });
  assertEquals(device.memory.live - before, 2 * 4096);
  assertEquals((await y.kept.read())[0], 3);
  y.kept.dispose();
  x.dispose();
  assertEquals(device.memory.live, before);
  assertThrows(() => device.scope(async () => {}), TypeError, "not async");
});

Deno.test("a freed tensor is refused", async () => {
  const x = tensor(device, new Float32Array(4));
  x.dispose();
  x.dispose(); // twice is once
  await assertRejects(() => x.read(), TypeError, "was freed");
  assertThrows(() => add(x, x), TypeError, "was freed");
});

Deno.test("write() comes after the work queued before it", async () => {
  const x = tensor(device, new Float32Array([1]));
  const y = add(x, x);
  device.write(x, new Float32Array([10]));
  const z = add(x, x);
  assertEquals([await y.item(), await z.item()], [2, 20]);
});

Deno.test("zeros() are zero in memory that was used before", async () => {
  tensor(device, new Float32Array(333).fill(7)).dispose();
  assert((await zeros(device, [333]).read()).every((value) => value === 0));
});

Deno.test("a step that allocates in the same order makes no bind groups after the first", () => {
  const x = tensor(device, new Float32Array(64).fill(1));
  const step = () => device.scope(() => void add(add(x, x), add(x, x)));
  step();
  const { bindGroups } = device.counters;
  for (let i = 0; i < 5; i++) step();
  assertEquals(device.counters.bindGroups, bindGroups);
});

Deno.test("trim() gives free memory back to the system", () => {
  tensor(device, new Float32Array(100_000)).dispose();
  const { reserved } = device.memory;
  device.trim();
  assert(device.memory.reserved <= reserved - 400_000);
});

Deno.test("a kernel that does not compile is named, with the place in its source", async () => {
  using own = await openDevice();
  const broken = kernel("broken", "@compute @workgroup_size(1) fn main() { let x = y; }");
  own.dispatch(broken, [], [1]);
  await assertRejects(
    async () => {
      await own.finish();
      await own.finish();
    },
    Error,
    'Cannot compile kernel "broken"',
  );
});

Deno.test("dispatch() refuses another number of bindings, and kernel() a gap between them", () => {
  const one = kernel("one", "@group(0) @binding(0) var<uniform> u: vec4<u32>;");
  assertThrows(
    () => device.dispatch(one, [uniform(1), uniform(2)], [1]),
    RangeError,
    "it has 1 bindings, got 2",
  );
  assertThrows(
    () => kernel("gap", "@group(0) @binding(1) var<uniform> u: u32;"),
    SyntaxError,
    "binding 0",
  );
});

Deno.test("a lost device says so, and what to do", async () => {
  const own: Device = await openDevice();
  const x = tensor(own, new Float32Array(4));
  own.gpu.destroy();
  await own.gpu.lost;
  await Promise.resolve();
  await assertRejects(() => x.read(), Error, "the GPU device was lost");
  assertThrows(() => empty(own, [4]), Error, "the GPU device was lost");
});

Deno.test("what is too large for the GPU is refused with what to do", async () => {
  const advice = "; take less at a time: a smaller batch, or shorter sequences";
  const { maxStorageBufferBindingSize: most, maxBufferSize } = device.gpu.limits;
  assertThrows(() => empty(device, [Math.ceil(maxBufferSize / 4) + 1024]), RangeError, advice);
  using own = await openDevice();
  const error = new GPUOutOfMemoryError("no memory is left");
  own.gpu.dispatchEvent(new GPUUncapturedErrorEvent("uncapturederror", { error }));
  assertThrows(() => own.check(), Error, `no memory is left${advice}`);
  if (most > 2 ** 28 || maxBufferSize <= most) return; // too much to take for a test, or never bound whole
  using other = await openDevice();
  const large = empty(other, [Math.ceil(most / 4) + 64]);
  assertThrows(() => add(large, large), RangeError, advice);
  const small = tensor(other, new Float32Array([1, 2]));
  assertEquals(await add(small, small).read(), new Float32Array([2, 4]));
});

Deno.test("memory counts what is live, its peak, and what is reserved", async () => {
  using own = await openDevice();
  const a = tensor(own, new Float32Array(1000));
  const b = tensor(own, new Float32Array(2000));
  b.dispose();
  assertEquals(own.memory, { live: 4000, peak: 12_000, reserved: 12_000 });
  own.pool.resetPeak();
  assertEquals(own.memory.peak, 4000);
  a.dispose();
});

Deno.test("installCommand() knows the common systems", () => {
  assert(driverCommand("ID=ubuntu\nID_LIKE=debian")?.includes("apt-get install"));
  assert(driverCommand('ID="pop"\nID_LIKE="ubuntu debian"')?.includes("mesa-vulkan-drivers"));
  assert(driverCommand("ID=fedora\n")?.startsWith("dnf"));
  assert(driverCommand("ID=arch\n")?.includes("vulkan-swrast"));
  assertEquals(driverCommand("ID=plan9\n"), undefined);
  assert(installCommand("ID=debian\n", false).startsWith("sudo apt-get update && sudo apt-get"));
  assert(installCommand("ID=plan9\n", false).includes("Mesa's Vulkan drivers"));
});
