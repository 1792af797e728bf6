import { addLora } from "../../train/adapters/lora.ts";
import type { Sequence } from "../../train/data/dataset.ts";
import { Trainer, type TrainOptions } from "../../train/loop.ts";
import { loadModel } from "../../train/models/load.ts";
import { assert, assertEquals } from "../assert.ts";
import { device, randomIntegers } from "../device.ts";

const FOLDER = new URL("../golden/llama", import.meta.url).pathname;

function makeSequences(): Sequence[] {
  return Array.from({ length: 24 }, (_, i) => {
    const ids = Int32Array.from(randomIntegers(6 + i % 7, 320, i));
    return { ids, labels: ids.map((id) => (id + 1) % 320).fill(-100, 0, 3) };
  });
}

/** Losses of a short QLoRA run, and the adapter's bytes at its end. */
async function run(options: TrainOptions, dropout: number): Promise<[number[], Uint8Array]> {
  const model = await loadModel(device, FOLDER, { quantize: "nf4", doubleQuant: true });
  const lora = addLora(model, { r: 4, dropout, seed: 1 });
  using trainer = new Trainer(model, makeSequences(), {
    ...{ epochs: 3, batchSize: 2, length: 64, learningRate: 5e-3 },
    ...options,
  });
  const losses: number[] = [];
  for await (const { loss } of trainer.run()) losses.push(loss);
  const parts = await Promise.all([...lora.parameters()].map(([, t]) => t.read()));
  const bytes = parts.map((part) => part as Float32Array<ArrayBuffer>);
  return [losses, new Uint8Array(await new Blob(bytes).arrayBuffer())];
}

Deno.test("QLoRA: the same seed gives the same adapter, byte for byte, recorded or eager", async () => {
  const first = await run({ seed: 7 }, 0);
  assertEquals(await run({ seed: 7 }, 0), first);
  assertEquals(await run({ seed: 7, replay: false }, 0), first);
  const [losses] = await run({ seed: 8 }, 0);
  assert(losses.some((loss, i) => loss !== first[0][i]));
});

Deno.test("dropout is drawn anew in each step, follows from the seed, and is off outside of training", async () => {
  const plain = await run({ seed: 7 }, 0);
  const dropped = await run({ seed: 7 }, 0.5);
  assert(dropped[0].some((loss, i) => loss !== plain[0][i]));
  assertEquals(await run({ seed: 7 }, 0.5), dropped);
  assertEquals(await run({ seed: 7, replay: false }, 0.5), dropped);
});

Deno.test("a run leaves no memory behind but the model's own", async () => {
  const model = await loadModel(device, FOLDER);
  addLora(model, { r: 4 });
  let before = 0;
  for (let i = 0; i < 3; i++) {
    {
      using trainer = new Trainer(model, makeSequences(), { steps: 3, batchSize: 2, length: 64 });
      for await (const _ of trainer.run());
    }
    if (i > 0) assertEquals(device.memory.live, before);
    before = device.memory.live;
  }
});
