import { benchEndToEnd, type EndToEndTiming, WORKS } from "../../bench/end_to_end/run.ts";
import { drawModel } from "../../bench/end_to_end/random_model.ts";
import { sampleRuns } from "../../bench/end_to_end/sampling.ts";
import { LLAMA_7B, SMOLLM2 } from "../../bench/end_to_end/shapes.ts";
import { median } from "../../bench/spread.ts";
import { openDevice } from "../../core/device.ts";
import { parseConfig } from "../../train/models/architectures.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { device } from "../device.ts";

const QUICK = { sizes: "tiny", samples: 2, sampleMilliseconds: 1 } as const;

Deno.test("every row runs at its tiny size, and its figures fit together", async () => {
  const seen: EndToEndTiming[] = [];
  const found = await benchEndToEnd(openDevice, {
    ...QUICK,
    profile: true,
    onResult: (result) => seen.push(result),
  });
  assertEquals(found, seen);
  assertEquals(found.map(({ name }) => name), WORKS.map(({ name }) => name));
  assertEquals(new Set(found.map(({ name }) => name)).size, found.length);
  for (const row of found) {
    const { name, ms, minMs, maxMs, tokensPerSecond, profile } = row;
    assert(row.shape.endsWith(" tiny"), row.shape);
    assert(0 < minMs && minMs <= ms && ms <= maxMs, `${name}: ${minMs}, ${ms}, ${maxMs} ms`);
    const tokens = ms * tokensPerSecond / 1000;
    const wanted = name.startsWith("decode") ? 1 : name.startsWith("prefill") ? 16 : 64;
    assert(Math.abs(tokens - wanted) < 1e-6, `${name}: ${tokens} tokens`);
    assert(row.pipelines > 5 && row.compileMs > 0 && row.coldMs > row.compileMs, name);
    assert(row.dispatches > 5, `${name}: ${row.dispatches} dispatches`);
    assert(row.peakBytes > 1000 && row.reservedBytes >= row.peakBytes, name);
    assert(profile!.dispatches.length > 5 && profile!.milliseconds > 0, name);
    const total = profile!.kernels.reduce((sum, own) => sum + own.dispatches, 0);
    assertEquals(total, profile!.dispatches.length);
  }
});

Deno.test("full shapes are those of the models that rows are named after", () => {
  const smollm2 = parseConfig(SMOLLM2.full);
  assertEquals([smollm2.layers, smollm2.heads, smollm2.kvHeads, smollm2.headSize], [30, 9, 3, 64]);
  const llama = parseConfig(LLAMA_7B.full);
  assertEquals([llama.layers, llama.heads, llama.kvHeads, llama.headSize], [32, 32, 32, 128]);
});

Deno.test("drawModel() gives a model in 4 bits, or one that is trained whole, and leaves nothing behind", async () => {
  const before = device.memory.live;
  const quantized = await drawModel(device, SMOLLM2.tiny, { quantize: "nf4" });
  const plain = await drawModel(device, SMOLLM2.tiny, { trainable: "all" });
  const { total } = plain.count();
  assertEquals([plain.count().trainable, quantized.count()], [total, { total, trainable: 0 }]);
  // Embedding and norms stay in 32 bits; 7 layers of each block do not.
  const linears = 2 * 2 * (64 * 64 + 64 * 32) + 3 * 2 * 64 * 128;
  assertEquals(plain.weightBytes, 4 * total);
  assert(quantized.weightBytes < 4 * (total - linears) + 0.6 * linears);
  quantized.dispose();
  plain.dispose();
  assert(device.memory.live - before < 1024, `${device.memory.live - before} bytes are left`);
});

Deno.test("drawModel() draws halves for a shape whose checkpoint has them", async () => {
  const before = device.memory.live;
  const own = device.adapter;
  for (const type of ["software", "gpu"] as const) {
    Object.assign(device, { adapter: { ...own, type } });
    const model = await drawModel(device, LLAMA_7B.tiny, { quantize: "nf4" })
      .finally(() => Object.assign(device, { adapter: own }));
    for (const [path, module] of model.modules()) {
      for (const [, t] of module.tensors()) {
        const numbers = await t.read();
        assert(numbers.every((x) => Math.f16round(x) === x), path);
        const isHalf = t.shape.length === 2 && type === "gpu";
        assertEquals(t.dtype, isHalf ? "f16" : "f32", path);
      }
    }
    model.dispose();
  }
  assert(device.memory.live - before < 1024, `${device.memory.live - before} bytes are left`);
});

Deno.test("sampleRuns() warms up, then samples as long as it was told, at most so often", async () => {
  let runs = 0;
  const run = (count: number) => {
    runs += count;
    return new Promise<void>((done) => setTimeout(done, 2 * count));
  };
  const found = await sampleRuns(device, run, { samples: 3, sampleMilliseconds: 40 });
  // A timer counts whole milliseconds, and may come up to one early.
  assert(1 <= found.min && found.min <= found.median && found.median <= found.max);
  assert(runs > 20 && found.dispatches === 0, `${runs} runs`);
  runs = 0;
  await sampleRuns(device, run, { samples: 3, sampleMilliseconds: 1e6, most: 30 });
  assert(runs <= 30, `${runs} runs`);
  assertEquals([median([3, 1, 2]), median([4, 1])], [2, 2.5]);
});

Deno.test("benchEndToEnd() names its rows where none fits", async () => {
  await assertRejects(
    () => benchEndToEnd(openDevice, { filter: "zebra" }),
    RangeError,
    'Cannot bench "zebra": no row has it in its name. There are qlora smollm2 r16-all 4x512',
  );
});

Deno.test("benchEndToEnd() goes on after a row that fails", async () => {
  const [work] = WORKS;
  const failing = { ...work, measure: () => Promise.reject(new Error("no memory")) };
  const works = [failing, WORKS.find(({ name }) => name === "full gpt-d64 2x32")!];
  const seen: unknown[] = [];
  const found = await benchEndToEnd(openDevice, {
    ...QUICK,
    works,
    onSkip: (row) => seen.push(row),
  });
  assertEquals(found.map(({ name }) => name), ["full gpt-d64 2x32"]);
  assertEquals(seen, [{ name: work.name, reason: "no memory" }]);
  await assertRejects(() => benchEndToEnd(openDevice, { ...QUICK, works }), Error, "no memory");
});
