import type { KernelCase } from "../../bench/case.ts";
import {
  benchKernels,
  checkCase,
  KERNEL_CASES,
  type KernelTiming,
  squareOf,
} from "../../bench/kernels.ts";
import { hasClock, megahertzOf, probeClock, warmUpOf } from "../../bench/clock.ts";
import { timeOp } from "../../bench/timing.ts";
import { empty, type Tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { device, randomTensor } from "../device.ts";

/** A case that doubles, computed by `op`. */
function doubling(op: (x: Tensor) => readonly Tensor[]): KernelCase {
  return {
    kernel: "doubling",
    tiny: { size: 100 },
    software: [],
    gpu: [],
    allowed: 1e-6,
    bytes: ({ size }) => 8 * size,
    make: (inputs, { size }) => {
      const x = inputs.floats([size]);
      return {
        run: () => op(x),
        expected: (read) => [{ values: Float64Array.from(read(x), (value) => 2 * value) }],
      };
    },
  };
}

Deno.test("checkCase() finds every kernel right at its tiny size", async () => {
  for (const kernel of KERNEL_CASES) {
    const error = await checkCase(device, kernel, kernel.tiny);
    assert(error <= kernel.allowed, `${kernel.kernel}: error ${error}`);
  }
  const names = KERNEL_CASES.map(({ kernel }) => kernel);
  assertEquals(new Set(names).size, names.length);
});

Deno.test("checkCase() catches a wrong result, a missing one, and a kernel that writes nothing", async () => {
  const check = (op: (x: Tensor) => readonly Tensor[]) =>
    checkCase(device, doubling(op), { size: 100 });
  assert(await check((x) => [scale(x, 2)]) <= 1e-6);
  assert(await check((x) => [scale(x, 2.001)]) > 1e-4);
  assertEquals(await check(() => []), Infinity);
  assertEquals(await check((x) => [empty(device, x.shape)]), Infinity);
  assertEquals(await check(() => [scale(randomTensor([50], 1), 2)]), Infinity);
  // A kernel that writes at its first run only would pass without the poison.
  let runs = 0;
  const lazy = (x: Tensor) => [runs++ === 0 ? scale(x, 2) : empty(device, x.shape)];
  assertEquals(await check(lazy), Infinity);
});

Deno.test("benchKernels() times what is right, and only that", async () => {
  const seen: KernelTiming[] = [];
  const cases = [doubling((x) => [scale(x, 2)]), doubling((x) => [scale(x, 3)])];
  const found = await benchKernels(device, {
    sizes: "tiny",
    repeats: 3,
    cases,
    onResult: (result) => seen.push(result),
  });
  assertEquals(found, seen);
  const [right, wrong] = found;
  assertEquals(right.shape, "size=100");
  const { ms, minMs, maxMs, gbps } = right;
  assert(0 < minMs! && minMs! <= ms! && ms! <= maxMs!, `${minMs}, ${ms}, ${maxMs} ms`);
  assertEquals(gbps, 800 / (ms! * 1e6));
  assertEquals([wrong.ms, wrong.gbps], [null, undefined]);
  assert(wrong.error > 0.1);
});

Deno.test("benchKernels() runs some of nibble's kernels, and leaves no memory behind", async () => {
  const before = device.memory.live;
  for (const filter of ["gemv nf4", "quantize", "softmax", "adamw"]) {
    for (const result of await benchKernels(device, { filter, sizes: "tiny", repeats: 2 })) {
      assert(result.ms! > 0 && result.error <= result.allowed, JSON.stringify(result));
    }
  }
  // Constants of the device, some bytes each, stay.
  assert(device.memory.live - before < 1024, `${device.memory.live - before} bytes are left`);
  await assertRejects(
    () => benchKernels(device, { filter: "gemm" }),
    RangeError,
    'Cannot bench "gemm": no kernel has it in its name',
  );
});

Deno.test("benchKernels() takes one length for all, and the beginning of a name", async () => {
  const options = { kernels: ["rope", "matmul n"], filter: "nn", size: 40, repeats: 1 };
  const found = await benchKernels(device, options);
  assertEquals(found.map(({ name, shape }) => [name, shape]), [["matmul nn", "M=40 N=40 K=40"]]);
  assertEquals(found[0].gflops, 2 * 40 ** 3 / (found[0].ms! * 1e6));
  const sizes = { batch: 3, M: 1, N: 5, K: 6, heads: 9, D: 64, rows: 7 };
  assertEquals(squareOf(sizes, 80), { ...sizes, N: 80, K: 80, rows: 80 });
  assertEquals(squareOf({ M: 9 }, 80), { M: 80 });
  await assertRejects(
    () => benchKernels(device, { kernels: ["zebra", "zoo"] }),
    RangeError,
    'Cannot bench "zebra,zoo": no kernel has it in its name',
  );
});

Deno.test("the clock is measured on GPUs, and nowhere else", async () => {
  const clock = await probeClock(device);
  assertEquals(clock !== null, hasClock(device));
  if (device.adapter.type === "software") assertEquals([clock, await warmUpOf(device)], [null, 0]);
  else assert(clock! > 100 && clock! < 10_000, `${clock} MHz`);
  // 262,144 links of 4 cycles at 1 GHz.
  assertEquals(Math.round(megahertzOf(1.048576)), 1000);
});

Deno.test("timeOp() gives the time of one run: more work takes longer, more repeats do not", async () => {
  const time = (size: number, repeats?: number) =>
    timeOp(device, () => {
      const x = randomTensor([size, size], 1);
      return () => void matmul(x, x);
    }, { repeats });
  // A GPU takes as long to start a product of 256 rows as to compute it.
  const size = device.adapter.type === "gpu" ? 1024 : 256;
  const [small, large, once] = [await time(32), await time(size), await time(size, 4)];
  assert(large > 3 * small, `${small} and ${large} ms`);
  assert(once < 20 * large && large < 20 * once, `${once} and ${large} ms`);
});

Deno.test("benchKernels() hands over what it cannot measure, and throws it where nobody takes it", async () => {
  const broken: KernelCase = {
    ...doubling((x) => [scale(x, 2)]),
    kernel: "broken",
    make: () => {
      throw new Error("no inputs");
    },
  };
  const cases = [{ ...doubling((x) => [scale(x, 2)]), multiples: { size: 3 } }, broken];
  const seen: unknown[] = [];
  const options = { sizes: "tiny", repeats: 1, cases } as const;
  const found = await benchKernels(device, {
    ...options,
    onSkip: ({ name, reason }, isFault) => seen.push([name, reason, isFault]),
  });
  assertEquals(found, []);
  assertEquals(seen, [
    ["doubling size=100", "size must be a multiple of 3", false],
    ["broken size=100", "no inputs", true],
  ]);
  const fault = "Cannot bench doubling size=100: size must be a multiple of 3";
  await assertRejects(() => benchKernels(device, options), RangeError, fault);
});

Deno.test("without timestamps the host's clock gives about the same time", async () => {
  const own = device.adapter;
  const cases = KERNEL_CASES.filter(({ kernel }) => kernel === "matmul nn");
  const size = own.type === "gpu" ? 2048 : 256;
  const time = async (timestamps: boolean) => {
    Object.assign(device, { adapter: { ...own, timestamps } });
    const [{ ms }] = await benchKernels(device, { cases, size })
      .finally(() => Object.assign(device, { adapter: own }));
    return ms!;
  };
  const [byDevice, byHost] = [await time(true), await time(false)];
  assert(byHost > byDevice / 5 && byHost < byDevice * 5, `${byDevice} and ${byHost} ms`);
});
