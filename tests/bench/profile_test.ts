import { profile, sharesOf } from "../../bench/profile.ts";
import { traceOf, writeTrace } from "../../bench/trace.ts";
import { capture } from "../../core/capture.ts";
import { kernel } from "../../core/kernel.ts";
import { empty, tensor } from "../../core/tensor.ts";
import type { Attended } from "../../kernels/attention/operands.ts";
import { attendByWalks, backwardByWalks } from "../../kernels/attention/walks.ts";
import { runProduct } from "../../kernels/linear/matmul.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { device, randomTensor } from "../device.ts";

const doubling = kernel(
  "doubling",
  `@group(0) @binding(0) var<storage, read> x: array<f32>;
  @group(0) @binding(1) var<storage, read> again: array<f32>;
  @group(0) @binding(2) var<storage, read_write> out: array<f32>;
  @compute @workgroup_size(64) fn main(@builtin(global_invocation_id) id: vec3<u32>) {
    out[id.x] = x[id.x] + again[id.x];
  }`,
);

Deno.test("profile() times every dispatch, in order, with its bytes and operations", async () => {
  const x = randomTensor([64, 4], 1);
  const out = empty(device, [64, 4]);
  const { dispatches, kernels, milliseconds } = await profile(device, () => {
    device.dispatch(doubling, [x, x, out], [4], {}, 256);
    device.dispatch(doubling, [x, x, out], [4, 1, 1], {}, 256);
    add(x, out);
  });
  assertEquals(dispatches.map((own) => own.kernel), ["doubling", "doubling", "elementwise"]);
  // What is bound twice counts once.
  assertEquals(dispatches.map(({ bytes }) => bytes), [2048, 2048, 3072]);
  assertEquals(dispatches.map(({ flops }) => flops), [256, 256, 0]);
  let end = 0;
  for (const { begin, milliseconds } of dispatches) {
    assert(begin >= end - 1e-9 && milliseconds >= 0);
    end = begin + milliseconds;
  }
  assertEquals(milliseconds, end);
  const own = kernels.find((share) => share.kernel === "doubling")!;
  assertEquals(own.dispatches, 2);
  assertEquals(own.gflops, 512 / (own.milliseconds * 1e6));
  assertEquals(own.gbps, 4096 / (own.milliseconds * 1e6));
  x.dispose();
  out.dispose();
});

Deno.test("profile() holds more dispatches than a query set, of replayed steps too", async () => {
  const x = randomTensor([8], 1);
  const step = capture(device, () => {
    let y = x;
    for (let i = 0; i < 2500; i++) y = scale(y, 1);
    return y;
  });
  step();
  const { dispatches } = await profile(device, () => void step());
  assertEquals(dispatches.length, 2500);
  assert(dispatches.every(({ begin }, i) => i === 0 || begin >= dispatches[i - 1].begin));
  step.dispose();
  x.dispose();
});

Deno.test("products count their operations, whatever kernel computes them", async () => {
  for (const variant of ["any", "tiles", "texels"] as const) {
    const [a, b] = [randomTensor([32, 64], 1), randomTensor([64, 128], 2)];
    const out = empty(device, [32, 128]);
    const sizes = { layout: "nn", m: 32, n: 128, k: 64, batch: 1, ownB: false, alpha: 1 } as const;
    const { dispatches } = await profile(
      device,
      () => runProduct({ a, b, add: undefined, out, ...sizes }, variant),
    );
    const flops = dispatches.reduce((sum, own) => sum + own.flops, 0);
    assertEquals(flops, 2 * 32 * 128 * 64, variant);
    for (const t of [a, b, out]) t.dispose();
  }
});

Deno.test("attention counts half of the square, and 2.5 times as much backward", async () => {
  const [q, k, v] = [4, 2, 2].map((heads, seed) => randomTensor([1, 32, heads, 16], seed));
  const positions = tensor(device, Int32Array.from({ length: 32 }, (_, i) => i), [1, 32]);
  const operands = { q, k, v, positions };
  let attended: Attended;
  const forward = await profile(device, () => void (attended = attendByWalks(operands)));
  const back = await profile(device, () => void backwardByWalks(operands, attended, q));
  const [there, here] = [forward, back].map(({ dispatches }) =>
    dispatches.reduce((sum, own) => sum + own.flops, 0)
  );
  assertEquals([there, here], [2 * 4 * 32 * 32 * 16, 2.5 * there]);
});

Deno.test("profile() says that it needs timestamps", async () => {
  const own = device.adapter;
  Object.assign(device, { adapter: { ...own, timestamps: false } });
  try {
    const fault = `the adapter ${own.name} has no timestamps; leave the profile out`;
    await assertRejects(() => profile(device, () => {}), Error, fault);
  } finally {
    Object.assign(device, { adapter: own });
  }
});

Deno.test("profile() of nothing is empty", async () => {
  assertEquals(await profile(device, () => {}), { kernels: [], dispatches: [], milliseconds: 0 });
});

Deno.test("sharesOf() puts the most expensive first, and has no rate where there is none", () => {
  const time = { grid: [1] as const, begin: 0, bytes: 6e6, flops: 0 };
  const shares = sharesOf([
    { ...time, kernel: "a", milliseconds: 1 },
    { ...time, kernel: "embedding", milliseconds: 2 },
    { ...time, kernel: "matmul", milliseconds: 3, flops: 12e6 },
    { ...time, kernel: "a", milliseconds: 3 },
  ]);
  assertEquals(shares, [
    { kernel: "a", dispatches: 2, milliseconds: 4, gbps: 3 },
    { kernel: "matmul", dispatches: 1, milliseconds: 3, gflops: 4, gbps: 2 },
    { kernel: "embedding", dispatches: 1, milliseconds: 2 },
  ]);
});

Deno.test("traceOf() makes an event of each dispatch, in microseconds", async () => {
  const dispatch = { kernel: "add", grid: [2, 3] as const, begin: 1.5, milliseconds: 0.25 };
  const trace = traceOf(
    { kernels: [], dispatches: [{ ...dispatch, bytes: 8, flops: 2 }], milliseconds: 1.75 },
    { adapter: "x" },
  );
  assertEquals(trace.traceEvents.map(({ ph }) => ph), ["M", "M", "X"]);
  assertEquals(trace.traceEvents[2], {
    ...{ name: "add", ph: "X", pid: 1, tid: 1, ts: 1500, dur: 250 },
    args: { grid: "2×3", bytes: 8, flops: 2 },
  });
  const folder = await Deno.makeTempDir();
  try {
    const path = await writeTrace(`${folder}/new`, "step", trace);
    assertEquals(JSON.parse(await Deno.readTextFile(path)), trace);
  } finally {
    await Deno.remove(folder, { recursive: true });
  }
});
