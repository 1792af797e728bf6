import { SafetensorsFile } from "../../train/files/safetensors.ts";
import { loadAdapter } from "../../train/adapters/peft.ts";
import { loadModel } from "../../train/models/load.ts";
import { TrainStep } from "../../train/step.ts";
import { assert, assertRelativeError } from "../assert.ts";
import { device } from "../device.ts";
import { batchOf } from "../own_labels.ts";

const GOLDEN = new URL("../golden/", import.meta.url).pathname;

for (
  const name of [
    "llama/lora",
    "llama/rslora",
    "llama/dora",
    "llama-tied/lora",
    "qwen2/lora",
    "qwen3/lora",
    "gpt2/lora",
  ]
) {
  Deno.test(`${name}: twelve steps go as PEFT's and torch's AdamW go`, async () => {
    const folder = `${GOLDEN}${name}`;
    const model = await loadModel(device, `${GOLDEN}${name.split("/")[0]}`);
    await loadAdapter(model, `${folder}/start`);
    using golden = await SafetensorsFile.open(`${folder}/expected.safetensors`);
    const [steps, rows, length] = golden.entries.get("batches")!.shape;
    const all = new Int32Array((await golden.read("batches")).buffer);
    const step = new TrainStep(model, {
      mostTargets: rows * length,
      rows,
      length,
      weightDecay: 0.01,
      maxGradNorm: 1,
    });
    for (let i = 0; i < steps; i++) {
      const ids = all.slice(i * rows * length, (i + 1) * rows * length);
      step.run([batchOf(ids, rows)], i + 1, 5e-3);
    }
    const told = await step.read();
    const losses = await golden.readFloats("losses");
    const norms = await golden.readFloats("grad_norms");
    told.forEach(({ loss, gradNorm }, i) => {
      assert(Math.abs(loss - losses[i]) < 2e-5, `step ${i}: loss ${loss}, wanted ${losses[i]}`);
      assert(Math.abs(gradNorm / norms[i] - 1) < 1e-4, `step ${i}: ${gradNorm}, ${norms[i]}`);
    });
    using end = await SafetensorsFile.open(`${folder}/end/adapter_model.safetensors`);
    for (const [key, tensor] of model.parameters()) {
      assertRelativeError(await tensor.read(), await end.readFloats(key), 1e-3);
    }
    step.dispose();
    model.dispose();
  });
}
