import { backward } from "../../../core/autograd.ts";
import { tensor } from "../../../core/tensor.ts";
import { SafetensorsFile } from "../../../train/files/safetensors.ts";
import { loadModel } from "../../../train/models/load.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device } from "../../device.ts";

const GOLDEN = new URL("../../golden/", import.meta.url).pathname;

function readInts(bytes: Uint8Array<ArrayBuffer>): Int32Array<ArrayBuffer> {
  return new Int32Array(bytes.buffer);
}

for (const name of ["llama", "llama-tied", "qwen2", "qwen3", "gpt2"]) {
  Deno.test(`${name}: logits, loss and every gradient are those of transformers`, async () => {
    const model = await loadModel(device, `${GOLDEN}${name}`, { trainable: "all" });
    using golden = await SafetensorsFile.open(`${GOLDEN}${name}/expected.safetensors`);
    const { shape } = golden.entries.get("input_ids")!;
    const ids = tensor(device, readInts(await golden.read("input_ids")), shape);
    const labels = tensor(device, readInts(await golden.read("labels")), shape);

    const logits = await model.forward(ids).read();
    assertRelativeError(logits, await golden.readFloats("logits"), 1e-5);

    const loss = model.loss(ids, labels);
    const [wanted] = await golden.readFloats("loss");
    assert(Math.abs(await loss.item() - wanted) < 1e-5);

    backward(loss);
    const names = [...golden.entries.keys()].filter((key) => key.startsWith("grad."));
    const parameters = new Map(model.parameters());
    assertEquals([...parameters.keys()].map((own) => `grad.${own}`).sort(), names.sort());
    for (const key of names) {
      const grad = await parameters.get(key.slice(5))!.grad!.read();
      assertRelativeError(grad, await golden.readFloats(key), 2e-5);
    }
    model.dispose();
  });
}
