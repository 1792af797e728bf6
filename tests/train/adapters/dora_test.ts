import { backward, noGrad } from "../../../core/autograd.ts";
import type { Tensor } from "../../../core/tensor.ts";
import { DoraBranch } from "../../../train/adapters/dora_branch.ts";
import { addLora, type Lora, mergeAdapter } from "../../../train/adapters/lora.ts";
import { loadAdapter, saveAdapter } from "../../../train/adapters/peft.ts";
import type { LanguageModel } from "../../../train/models/language_model.ts";
import { loadModel } from "../../../train/models/load.ts";
import { Linear } from "../../../train/nn/linear.ts";
import { assert, assertEquals, assertRelativeError } from "../../assert.ts";
import { device, randomNumbers } from "../../device.ts";
import { GOLDEN, goldenInts, someIds, tinyModel } from "./models.ts";

const logits = (model: LanguageModel, ids: Tensor) => noGrad(() => model.forward(ids)).read();

/** Numbers in B, and magnitudes that are no longer the weights' norms. */
async function change(lora: Lora): Promise<void> {
  let seed = 5;
  for (const branch of lora.branches.values()) {
    device.write(branch.b, randomNumbers(branch.b.size, seed++, 0.1));
    if (!(branch instanceof DoraBranch)) continue;
    const factors = randomNumbers(branch.magnitude.size, seed++, 0.2);
    const norms = await branch.magnitude.read();
    device.write(branch.magnitude, Float32Array.from(norms, (norm, i) => norm * (1 + factors[i])));
  }
}

Deno.test("DoRA begins as the model: magnitudes are the norms of the rows", async () => {
  const model = tinyModel();
  const ids = someIds();
  const before = await logits(model, ids);
  const weight = new Map(model.linearLayers()).get("model.layers.1.mlp.down_proj")!.dense();
  const lora = addLora(model, { r: 4, useDora: true });
  assertRelativeError(await logits(model, ids), before, 1e-6);
  const branch = lora.branches.get("model.layers.1.mlp.down_proj")!;
  assert(branch instanceof DoraBranch);
  const w = await weight.read();
  const wanted = Array.from(
    { length: 32 },
    (_, i) => Math.hypot(...w.subarray(64 * i, 64 * i + 64)),
  );
  assertRelativeError(await branch.magnitude.read(), wanted, 1e-6);
  const names = [...lora.parameters()].map(([name]) => name).slice(0, 3);
  assertEquals(
    names,
    ["lora_A.weight", "lora_B.weight", "lora_magnitude_vector"].map((name) =>
      `base_model.model.model.layers.0.self_attn.q_proj.${name}`
    ),
  );
  assertEquals(model.count().trainable, lora.count);
});

for (const quantize of [undefined, "nf4"] as const) {
  Deno.test(`DoRA on ${quantize ?? "f32"}, with biases: as the formula says, and merged`, async () => {
    const folder = `${GOLDEN}qwen2`;
    const ids = await goldenInts(folder, "input_ids");
    const model = await loadModel(device, folder, { quantize });
    const wanted = await loadModel(device, folder, { quantize });
    const lora = addLora(model, { r: 4, seed: 2, useDora: true });
    await change(lora);
    for (const [path, layer] of wanted.linearLayers()) {
      const { a, b, scaling, magnitude } = lora.branches.get(path) as DoraBranch;
      const [rows, columns] = layer.shape;
      const [w, dA, dB, m] = await Promise.all(
        [layer.dense(), a, b, magnitude].map((t) => t.read()),
      );
      const v = new Float64Array(w.length);
      for (let i = 0; i < rows; i++) {
        for (let k = 0; k < columns; k++) {
          v[i * columns + k] = w[i * columns + k];
          for (let j = 0; j < 4; j++) {
            v[i * columns + k] += scaling * dB[4 * i + j] * dA[j * columns + k];
          }
        }
        const row = v.subarray(i * columns, (i + 1) * columns);
        const factor = m[i] / Math.hypot(...row);
        for (let k = 0; k < columns; k++) row[k] *= factor;
      }
      const dense = layer.dense();
      device.write(dense, Float32Array.from(v));
      wanted.replaceLinear(path, new Linear(dense, layer.bias));
    }
    const expected = await logits(wanted, ids);
    const before = await logits(model, ids);
    assertRelativeError(before, expected, 1e-5);
    lora.merge();
    assertRelativeError(await logits(model, ids), expected, 1e-5);
    lora.unmerge();
    assertEquals(await logits(model, ids), before);
    mergeAdapter(model);
    assertRelativeError(await logits(model, ids), expected, 1e-5);
    for (const own of [model, wanted]) own.dispose();
  });
}

Deno.test("DoRA's dropout is on the update alone, and without it nothing changes", async () => {
  const model = tinyModel();
  const ids = someIds();
  const lora = addLora(model, { r: 4, dropout: 0.5, useDora: true, seed: 9 });
  const base = await logits(model, ids);
  lora.training = true;
  // With B = 0 and m = ‖W‖ the update is nothing, whatever is dropped.
  assertRelativeError(await logits(model, ids), base, 2e-6);
  await change(lora);
  const first = await logits(model, ids);
  assertEquals(await logits(model, ids), first);
  lora.training = false;
  const still = await logits(model, ids);
  assert(still.some((number, i) => number !== first[i]));
});

Deno.test("the gradient of DoRA's magnitudes is that of the loss, with dropout too", async () => {
  const model = tinyModel();
  const ids = someIds();
  const lora = addLora(model, {
    r: 2,
    dropout: 0.3,
    useDora: true,
    targetModules: ["v_proj", "down_proj"],
  });
  await change(lora);
  for (const training of [false, true]) {
    lora.training = training;
    backward(model.loss(ids, ids));
    for (const [name, parameter] of lora.parameters()) {
      const [values, grad] = await Promise.all([parameter.read(), parameter.grad!.read()]);
      parameter.grad = null;
      // A's and B's gradients hold the norms constant, and so are not those of the loss.
      if (!name.endsWith("lora_magnitude_vector")) continue;
      const norm = Math.hypot(...grad);
      const at = async (step: number) => {
        device.write(parameter, Float32Array.from(values, (v, i) => v + step * grad[i] / norm));
        return await noGrad(() => model.loss(ids, ids)).item();
      };
      const slope = (await at(0.02) - await at(-0.02)) / 0.04;
      device.write(parameter, values);
      assert(Math.abs(slope - norm) <= 0.005 * norm + 5e-5, `${name}: ${slope}, expected ${norm}`);
    }
  }
});

Deno.test("a DoRA folder comes back the same, and leaves no memory behind", async () => {
  const model = tinyModel();
  const ids = someIds();
  const start = device.memory.live;
  const options = { r: 4, useDora: true, useRslora: true, targetModules: ["o_proj"] };
  const first = addLora(model, options);
  first.merge();
  first.remove();
  assertEquals(device.memory.live, start);
  const lora = addLora(model, options);
  await change(lora);
  const wanted = await logits(model, ids);
  const folder = `${await Deno.makeTempDir()}/dora`;
  await saveAdapter(lora, folder);
  lora.remove();
  const again = await loadAdapter(model, folder);
  assertEquals(again.options.useDora, true);
  assertEquals(await logits(model, ids), wanted);
});
