/** Activations in 16 bits: what is rounded, what is not, and the memory that it saves. */
import { backward, checkpoint, kept, recomputable, track } from "../../core/autograd.ts";
import { capture } from "../../core/capture.ts";
import { keepingHalves } from "../../core/halves.ts";
import { type Tensor, tensor } from "../../core/tensor.ts";
import { mul } from "../../kernels/pointwise/arithmetic.ts";
import { reshape } from "../../kernels/pointwise/reshape.ts";
import { scale } from "../../kernels/pointwise/scale.ts";
import { addLora } from "../../train/adapters/lora.ts";
import { Trainer, type TrainOptions } from "../../train/loop.ts";
import { randomModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertThrows } from "../assert.ts";
import { device, randomIntegers, randomNumbers } from "../device.ts";

/** A leaf with a gradient. */
function leaf(numbers: Float32Array): Tensor {
  const t = tensor(device, numbers);
  t.requiresGrad = true;
  return t;
}

Deno.test("what a rule asks for is rounded to halves, and saturated; leaves are not", async () => {
  const numbers = Float32Array.from([0.1, -1 / 3, 1e6, -1e6, 1e-9, 2]);
  const x = leaf(numbers);
  const seen: Tensor[] = [];
  const run = (on: boolean) =>
    keepingHalves(on, () => {
      x.grad = null;
      const twice = scale(x, 2);
      const out = track("square", mul(twice, twice), [twice, x], (g) => {
        seen.push(kept(twice), kept(reshape(twice, [2, 3])), kept(x));
        return [g, null];
      }, [twice, x]);
      backward(out, tensor(device, new Float32Array(6).fill(1)));
      return out;
    });
  const [rounded, exact] = [run(true), run(false)];
  assertEquals(await rounded.read(), await exact.read());
  const found = await Promise.all(seen.map((t) => t.read()));
  const twice = numbers.map((own) => 2 * own);
  const halves = twice.map((own) => Math.max(-65504, Math.min(65504, Math.f16round(own))));
  assertEquals(found, [halves, halves, numbers, twice, twice, numbers]);
  assertEquals(seen[1].shape, [2, 3]);
});

Deno.test("halves take half of the memory between both passes of a recorded step", async () => {
  const elements = 4096;
  const w = leaf(randomNumbers(elements, 1));
  const run = async (activations: "f16" | "f32") => {
    const step = capture(device, (x) => {
      let t = x;
      for (let i = 0; i < 8; i++) t = mul(scale(t, 0.5), w);
      w.grad = null;
      backward(t, x);
      return w.grad!;
    }, { overlap: false, activations });
    const before = device.memory.live;
    const grad = step({ data: randomNumbers(elements, 2), shape: [elements] });
    const bytes = device.memory.live - before;
    const numbers = await grad.read();
    step.dispose();
    return { bytes, numbers };
  };
  const [half, full] = [await run("f16"), await run("f32")];
  // Seven inputs wait in 16 bits; the one at work is widened.
  assert(half.bytes <= full.bytes - (7 * 2 - 4) * elements, `${half.bytes}, ${full.bytes} bytes`);
  const largest = Math.max(...full.numbers.map(Math.abs));
  const off = half.numbers.map((own, i) => Math.abs(own - full.numbers[i]));
  assert(Math.max(...off) < 2e-3 * largest && Math.max(...off) > 0, `${Math.max(...off)}`);
  assertThrows(
    () => capture(device, (x) => x, { activations: "bf16" as "f16" }),
    RangeError,
    'wanted "f32" or "f16"',
  );
});

Deno.test("a checkpoint keeps its input in halves, and what is computed again begins with them", async () => {
  const x = leaf(Float32Array.from([0.1, 0.7, 1 / 3]));
  const w = leaf(Float32Array.from([1, 1, 1]));
  const ones = tensor(device, new Float32Array(3).fill(1));
  const gradient = async (body: (t: Tensor) => Tensor) => {
    w.grad = null;
    keepingHalves(true, () => backward(body(scale(x, 3)), ones));
    return await w.grad!.read();
  };
  const rounded = (await scale(x, 3).read()).map(Math.f16round) as Float32Array;
  assertEquals(await gradient((t) => checkpoint((own) => mul(own, w), [t])), rounded);
  assertEquals(await gradient((t) => mul(recomputable(() => scale(kept(t), 1)), w)), rounded);
});

function sequences() {
  return Array.from({ length: 40 }, (_, i) => {
    const start = randomIntegers(1, 96, i)[0];
    const ids = Int32Array.from({ length: 5 + i % 20 }, (_, j) => (start + 7 * j) % 96);
    return { ids, labels: ids.map((id) => (id + 7) % 96) };
  });
}

const SIZES = {
  llama: {
    model_type: "llama",
    vocab_size: 96,
    hidden_size: 32,
    intermediate_size: 64,
    num_hidden_layers: 4,
    num_attention_heads: 4,
    num_key_value_heads: 2,
  },
  gpt2: {
    model_type: "gpt2",
    vocab_size: 96,
    n_embd: 32,
    n_layer: 4,
    n_head: 4,
    n_positions: 64,
  },
};

for (const [name, json] of Object.entries(SIZES)) {
  Deno.test(`${name} trains with activations in 16 bits: nearly the same losses, less memory`, async () => {
    const run = async (lora: boolean, more: TrainOptions) => {
      const model = randomModel(device, json, { seed: 3, trainable: "all" });
      if (lora) addLora(model, { r: 4, seed: 1, dropout: 0.1 });
      const options = { steps: 10, batchSize: 4, length: 64, learningRate: 1e-2, overlap: false };
      using trainer = new Trainer(model, sequences(), { ...options, ...more });
      const { step } = more.replay === false ? { step: 0 } : trainer.memory();
      const losses: number[] = [];
      for await (const { loss } of trainer.run()) losses.push(loss);
      model.dispose();
      return { step, losses };
    };
    for (const lora of [false, true]) {
      for (const recompute of [false, true]) {
        const full = await run(lora, { recompute });
        const half = await run(lora, { recompute, activations: "f16" });
        assertEquals(half.losses[0], full.losses[0]);
        const off = half.losses.map((loss, i) => Math.abs(loss - full.losses[i]));
        assert(Math.max(...off) < 0.02 && Math.max(...off) > 0, `${off}`);
        assert(half.step < 0.85 * full.step, `${half.step} of ${full.step} bytes`);
        if (lora === recompute) continue;
        const again = await run(lora, { recompute, activations: "f16", checkpointing: true });
        assert(Math.abs(again.losses[9] - full.losses[9]) < 0.02);
        if (recompute) continue;
        const eager = await run(lora, { activations: "f16", replay: false });
        assertEquals(eager.losses, half.losses);
      }
    }
  });
}
