import { backward, noGrad } from "../../../core/autograd.ts";
import { mergeAdapter } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";
import { GOLDEN, goldenInts } from "./models.ts";

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
  const folder = `${GOLDEN}${name}`;
  const base = `${GOLDEN}${name.split("/")[0]}`;

  Deno.test(`${name}: logits, loss and every gradient are those of PEFT`, async () => {
    const model = await loadModel(device, base);
    const lora = await loadAdapter(model, `${folder}/start`);
    using golden = await SafetensorsFile.open(`${folder}/expected.safetensors`);
    const ids = await goldenInts(base, "input_ids");
    const labels = await goldenInts(base, "labels");
    assertRelativeError(
      await noGrad(() => model.forward(ids)).read(),
      await golden.readFloats("logits"),
      1e-5,
    );
    const loss = model.loss(ids, labels);
    const [wanted] = await golden.readFloats("loss");
    assert(Math.abs(await loss.item() - wanted) < 1e-5);

    backward(loss);
    const parameters = new Map(model.parameters());
    assertEquals([...parameters], [...lora.parameters()]);
    // In memory PEFT puts the adapter's name, "default", into a parameter's.
    const keys = [...golden.entries.keys()].filter((key) => key.startsWith("grad."));
    const names = keys.map((key) =>
      key.slice(5).replace(/(\.lora_magnitude_vector)\.default\.weight$|\.default/, "$1")
    );
    assertEquals([...parameters.keys()].sort(), names.toSorted());
    for (const [i, key] of keys.entries()) {
      const grad = await parameters.get(names[i])!.grad!.read();
      assertRelativeError(grad, await golden.readFloats(key), 2e-5, key);
    }
    lora.remove();
    model.dispose();
  });

  Deno.test(`${name}: the trained adapter computes what PEFT's does, merged or not`, async () => {
    const model = await loadModel(device, base);
    const lora = await loadAdapter(model, `${folder}/end`);
    using golden = await SafetensorsFile.open(`${folder}/expected.safetensors`);
    const ids = await goldenInts(base, "input_ids");
    const logits = () => noGrad(() => model.forward(ids)).read();
    const before = await logits();
    assertRelativeError(before, await golden.readFloats("end_logits"), 1e-5);

    lora.merge();
    assert(lora.merged);
    assertRelativeError(await logits(), await golden.readFloats("merged_logits"), 1e-5);
    assertEquals([...model.parameters()], []);
    lora.unmerge();
    assertEquals(await logits(), before);

    mergeAdapter(model);
    assertRelativeError(await logits(), await golden.readFloats("merged_logits"), 1e-5);
    model.dispose();
  });

  Deno.test(`${name}: saving what PEFT saved gives the same bytes`, async () => {
    const model = await loadModel(device, base);
    const from = `${folder}/start`;
    const lora = await loadAdapter(model, from);
    const to = `${await Deno.makeTempDir()}/saved`;
    const config = JSON.parse(await Deno.readTextFile(`${from}/adapter_config.json`));
    await saveAdapter(lora, to, { baseModel: config.base_model_name_or_path });
    assertEquals(
      await Deno.readFile(`${to}/adapter_model.safetensors`),
      await Deno.readFile(`${from}/adapter_model.safetensors`),
    );
    const saved = await Deno.readTextFile(`${to}/adapter_config.json`);
    assertEquals(JSON.parse(saved), config);
    assertEquals(Object.keys(JSON.parse(saved)), Object.keys(config));
    lora.remove();
    model.dispose();
  });
}
