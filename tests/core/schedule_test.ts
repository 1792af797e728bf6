import { backward } from "../../core/autograd.ts";
import type { Entry } from "../../core/binding.ts";
import { capture, Recorder } from "../../core/capture.ts";
import { groupEntries, schedule, usesOf } from "../../core/schedule.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { matmul } from "../../kernels/linear/matmul.ts";
import { add } from "../../kernels/pointwise/arithmetic.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { assert, assertEquals } from "../assert.ts";
import { device, randomIntegers, randomNumbers } from "../device.ts";

function recorded(body: () => void): Entry[] {
  const recorder = new Recorder();
  device.recorder = recorder;
  try {
    body();
  } finally {
    device.recorder = null;
  }
  return recorder.entries;
}

function input(seed = 1): Tensor {
  return tensor(device, randomNumbers(64, seed), [8, 8]);
}

/** For each entry, how often each of its storages was written before. */
function historyOf(entries: readonly Entry[]): Map<Entry, string> {
  const writes = new Map<unknown, number>();
  const ids = new Map<unknown, number>();
  return new Map(entries.map((entry) => {
    const uses = [...usesOf(entry)];
    const seen = uses.map(({ storage, written }) => {
      if (!ids.has(storage)) ids.set(storage, ids.size);
      return `${written ? "w" : "r"}${writes.get(storage) ?? 0}`;
    }).join();
    for (const { storage, written } of uses) {
      if (written) writes.set(storage, (writes.get(storage) ?? 0) + 1);
    }
    return [entry, seen];
  }));
}

Deno.test("groupEntries() puts independent work side by side, and copies alone", () => {
  const x = input();
  const weights = [1, 2, 3].map(input);
  const kept = input();
  const entries = recorded(() => {
    const y = scale(x, 2);
    const each = weights.map((w) => scale(matmul(y, w), 3));
    device.copy(each[0], kept);
    add(add(each[0], each[1]), each[2]);
  });
  const labels = groupEntries(entries).map((group) =>
    group.map((entry) => entry.kind === "dispatch" ? entry.pipeline.kernel.label : entry.kind)
  );
  const product = labels[1][0];
  assertEquals(labels, [
    ["scale"],
    [product, product, product],
    ["scale", "scale", "scale"],
    ["elementwise"],
    ["elementwise"],
    ["copy"],
  ]);
  assertEquals(groupEntries(entries, 1), entries.map((entry) => [entry]));
});

Deno.test("schedule() keeps what each dispatch reads and writes, for random work", () => {
  for (let seed = 0; seed < 10; seed++) {
    const entries = recorded(() => {
      const made = [input(seed)];
      const picks = randomIntegers(3 * 900, 1 << 20, seed);
      for (let i = 0; i < 900; i++) {
        const [kind, a, b] = picks.subarray(3 * i);
        const [one, other] = [made[a % made.length], made[b % made.length]];
        if (kind % 8 === 0 && one !== other) device.copy(one, other);
        else if (kind % 8 === 1) device.clear(one);
        else made.push(kind % 2 ? add(one, other) : scale(one, 2));
      }
    });
    const wanted = historyOf(entries);
    const work = schedule(entries, device);
    const own = new Set(entries);
    const found = work.map(({ entry }) => entry).filter((entry) => own.has(entry));
    assertEquals(found.length, entries.length);
    const seen = historyOf(found);
    for (const entry of entries) assertEquals(seen.get(entry), wanted.get(entry));
    const parts = work.map(({ part }) => part);
    assertEquals(parts, parts.toSorted((a, b) => a - b));
    assert(parts.at(-1)! > 0);
  }
});

Deno.test("schedule() takes one barrier for work that reads several results, and leaves buffers alone that were used", async () => {
  const weights = [1, 2, 3].map(input);
  const step = capture(device, (x) => {
    const each = weights.map((w) => scale(matmul(x, w), 3));
    return add(add(each[0], each[1]), each[2]);
  }, { overlap: true });
  const { dispatches } = device.counters;
  const data = randomNumbers(64, 9);
  const result = await step({ data, shape: [8, 8] }).read();
  // three products, a join, three scales, two sums
  assertEquals(device.counters.dispatches - dispatches, 9);
  const x = tensor(device, data, [8, 8]);
  const each = weights.map((w) => scale(matmul(x, w), 3));
  assertEquals(result, await add(add(each[0], each[1]), each[2]).read());
});

Deno.test("capture() with overlap gives bit-identical gradients in several command buffers", async () => {
  const w = tensor(device, randomNumbers(64, 2, 0.3), [8, 8]);
  w.requiresGrad = true;
  const run = async (overlap: boolean) => {
    const step = capture(device, (x) => {
      let t = x;
      for (let i = 0; i < 160; i++) t = add(matmul(t, w), scale(t, 0.5));
      w.grad = null;
      backward(t, x);
      return w.grad!;
    }, { overlap });
    const { submits } = device.counters;
    const results = [];
    for (const seed of [1, 2]) {
      results.push(await step({ data: randomNumbers(64, seed), shape: [8, 8] }).read());
    }
    assert(device.counters.submits - submits <= 8);
    step.dispose();
    return results;
  };
  assertEquals(await run(true), await run(false));
});
