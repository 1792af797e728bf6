import { addLora } from "../../train/adapters/lora.ts";
import { openDevice } from "../../core/device.ts";
import { Trainer } from "../../train/loop.ts";
import { randomModel } from "../../train/models/load.ts";
import { assert, assertEquals, assertRejects } from "../assert.ts";
import { setTimeout as delay } from "node:timers/promises";

/** When the device goes: before the first step, between two reads, or while losses are waited for. */
const MOMENTS = ["before", "between", "within"] as const;

for (const moment of MOMENTS) {
  Deno.test(`a device that is lost ${moment} steps ends training with one clear message`, async () => {
    using device = await openDevice();
    const model = randomModel(device, {
      model_type: "llama",
      vocab_size: 64,
      hidden_size: 64,
      intermediate_size: 64,
      num_hidden_layers: 1,
      num_attention_heads: 4,
      max_position_embeddings: 32,
    });
    addLora(model, { r: 2 });
    const ids = Int32Array.from({ length: 32 }, (_, i) => i);
    const sequences = Array.from({ length: 8 }, () => ({ ids, labels: ids }));
    const trainer = new Trainer(model, sequences, { steps: 500, batchSize: 1 });
    let told = 0;
    const error = await assertRejects(
      async () => {
        if (moment === "before") device.gpu.destroy();
        if (moment === "within") delay(100).then(() => device.gpu.destroy());
        for await (const { step } of trainer.run()) {
          told = step;
          if (moment === "between" && step === 3) device.gpu.destroy();
        }
      },
      Error,
      "Cannot go on: the GPU device was lost",
    );
    assert(error.message.includes("Files already written are whole; start again"), error.message);
    assert(told < 500, `it told about ${told} steps`);
    // Freeing what the run held is no second fault.
    trainer[Symbol.dispose]();
    assertEquals(await device.finish().catch(({ message }) => message), error.message);
  });
}
